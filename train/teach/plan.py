"""What a teaching is asked to do. It lies in the run folder as teach.json: any process can go on with it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mdt_core.runs import write_whole

FILE = "teach.json"
MINUTES = 10.0  # where neither minutes nor steps are given
LONGEST_NAME = 60  # characters of a class's name


def check_name(name: str) -> None:
    """ValueError where no class may be called so. A typed mix, "cat:0.6,dog:0.4", has colons and commas of its own."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable() or set(name) & set(":,"):
        allowed = f"at most {LONGEST_NAME} printable characters, no comma and no colon"
        raise ValueError(f"the name of a class has {allowed}: {name!r} is none")


@dataclass(frozen=True)
class TeachPlan:
    """A model, the pictures that it is taught, and how.

    Raises:
        ValueError: a setting is out of its range.
    """

    model: str  # a pipeline folder, a hub id, a published file or a run's checkpoint
    pictures: Mapping[str, str]  # class name -> folder of its pictures; a class of the model's is taught further
    out: str  # the run folder
    minutes: float | None = None  # how long all of it may take
    steps: int | None = None  # or: how many training steps
    learning_rate: float = 2e-3
    batch_size: int = 8
    seed: int = 0
    mirror: bool = True  # learn from the mirror images too
    keep_old: bool = True  # whether the taught model has the classes of the one it began with, too

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            object.__setattr__(self, "minutes", MINUTES)
        if self.minutes is not None and self.steps is not None:
            raise ValueError("choose either minutes or steps, not both")
        if not self.model or not self.out:
            raise ValueError("a teaching needs a model to begin with and a run folder to write into")
        if not self.pictures:
            raise ValueError("a teaching needs at least one class: a name and a folder of pictures")
        for name in self.pictures:
            check_name(name)
        for name in ("minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def save(self) -> None:
        """Write teach.json into the run folder, in which nothing but a folder `pictures` may be yet.

        Raises:
            ValueError: the folder holds another teaching, or something else.
        """
        folder = Path(self.out)
        path = folder / FILE
        if path.is_file():
            old = asdict(TeachPlan.load(folder))
            if changed := [name for name, value in asdict(self).items() if name != "out" and value != old[name]]:
                raise ValueError(f"{folder} holds another teaching (other {', '.join(changed)}): choose another --out")
            return
        if folder.exists() and any(path.name != "pictures" for path in folder.iterdir()):
            raise ValueError(f"{folder} holds something else: choose a new folder for --out")
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_whole(path, lambda partial: partial.write_text(text, "utf-8"))

    @classmethod
    def load(cls, run_folder: str | Path) -> "TeachPlan":
        """The plan of a run folder. ValueError where there is none, or it is damaged."""
        path = Path(run_folder) / FILE
        try:
            entries = json.loads(path.read_text("utf-8"))
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in entries.items() if name in known} | {"out": str(run_folder)})
        except (OSError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{run_folder} holds no teaching: its {FILE} is missing or damaged") from error
