"""From what was dropped to a run folder that teaches."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.teach.settings import TEACHING
from mdt_core.weights.hub import expand
from train.teach import process
from train.teach.plan import TeachPlan


def begin(runs: Path, model: str, pictures: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]) -> str:
    """Start a teaching in a folder of its own below `runs`; the folder's name.

    Args:
        model: where it lies.
        pictures: class name -> files.
        settings: a value for each key of TEACHING; 0 steps: by the minutes.

    Raises:
        ValueError, OSError: a setting cannot be used, another teaching runs, or the disk is full. No folder is left.
    """
    check_settings(settings)
    by_time = not settings["steps"]
    length = {"minutes": settings["minutes"] if by_time else None, "steps": None if by_time else settings["steps"]}
    folder = new_folder(runs, list(pictures))
    try:
        copied = {name: copy(files, folder / "pictures" / str(i)) for i, (name, files) in enumerate(pictures.items())}
        local = expand(model)
        source = str(local.resolve()) if local.exists() else model
        process.start(TeachPlan(source, copied, str(folder), **settings | length))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder.name


def check_settings(settings: Mapping[str, Any]) -> None:
    """ValueError where one of TEACHING is not what it may be."""
    for key, value in settings.items():
        TEACHING[key].check(value)


def new_folder(runs: Path, classes: Sequence[str]) -> Path:
    """Make a folder below `runs` whose name tells the classes, and is not taken."""
    words = "-".join(re.sub(r"\W+", "-", name).strip("-").lower() for name in classes)[:40].strip("-")
    name, number = f"taught-{words}", 1
    while True:
        folder = (runs / (name if number == 1 else f"{name}-{number}")).absolute()
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def copy(files: Sequence[Path], folder: Path) -> str:
    """Put pictures into a folder under numbers; the folder."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, folder / f"{number:04}.png")
    return str(folder)
