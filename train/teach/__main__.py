"""Teach a model your own pictures: a folder of them becomes a class. The same command goes on where it was stopped.

python -m train.teach my-drawings --from assets/models/avatars --out runs/mine --minutes 10
"""

import argparse
import os
from pathlib import Path

from mdt_core.command.parser import number
from train.command import Parser
from train.latents.images import list_images
from train.teach.plan import TeachPlan
from train.teach.status import take_turn


def classes_of(folders: list[Path]) -> dict[str, str]:
    """Class name -> folder: a folder of pictures is a class of its name, one of such folders a class for each.

    Raises:
        ValueError, FileNotFoundError: a folder is not there or holds no pictures, or two have one name.
    """
    classes: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder: name one that holds pictures, or folders of pictures")
        below = sorted({Path(path).parts[0] for path in list_images(folder) if len(Path(path).parts) > 1})
        own = any(len(Path(path).parts) == 1 for path in list_images(folder))
        if own == bool(below):
            reason = "holds pictures and folders of pictures" if own else "holds no pictures"
            raise ValueError(f"{folder} {reason}: a class is a folder that holds pictures alone")
        for each in [folder / name for name in below] or [folder]:
            name = Path(os.path.abspath(each)).name  # a link's own name
            if name in classes:
                raise ValueError(f"two folders are called {name}: give each class a name of its own")
            classes[name] = str(each)
    return classes


def teach_folders(
    folders: list[Path], model: str, out: Path | None, forget: bool, resume: Path | None, lock: int | None, **settings
) -> None:
    """What the command line asks for."""
    if resume is not None:
        plan = TeachPlan.load(resume)
    elif out is None or not folders:
        raise ValueError("name a folder of pictures, and by --out the run folder")
    else:
        plan = TeachPlan(model, classes_of(folders), str(out), keep_old=not forget, **settings)
    if lock is None:
        lock = take_turn(plan.out)
    else:
        os.nice(10)  # whoever draws meanwhile goes first
    from train.teach.teaching import teach  # only now: --help needs nothing of it

    try:
        teach(plan)
    finally:
        os.close(lock)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train.teach", description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="pictures, or a folder for each class")
    source = "the model to begin with (assets/models/avatars)"
    parser.add_argument("--from", dest="model", default="assets/models/avatars", metavar="MODEL", help=source)
    parser.add_argument("--out", type=Path, help="the run folder")
    parser.add_argument("--minutes", type=number(float, 0.01), help="how long all of it may take (10)")
    parser.add_argument("--steps", type=number(int, 1), help="in place of minutes: how many training steps")
    parser.add_argument("--batch-size", type=number(int, 1), default=TeachPlan.batch_size)
    parser.add_argument("--learning-rate", type=number(float, 0), default=TeachPlan.learning_rate)
    parser.add_argument("--seed", type=number(int, 0), default=TeachPlan.seed)
    parser.add_argument("--no-mirror", dest="mirror", action="store_false", help="do not learn from mirror images")
    parser.add_argument("--forget", action="store_true", help="the taught model has the new classes alone")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with what a run folder's teach.json says")
    parser.add_argument("--lock", type=number(int, 0), help=argparse.SUPPRESS)
    parser.call(teach_folders, arguments)


if __name__ == "__main__":
    main()
