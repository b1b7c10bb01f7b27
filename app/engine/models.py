"""The models that can be chosen, by name: those given at start, and every checkpoint that the runs hold by now.

A name is looked up here and never becomes part of a path, so that nothing else on the machine can be opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.engine.runs import checkpoint_folders, find_runs
from mdt_core.weights.hub import expand

ASSETS = Path(__file__).parents[2] / "assets"
MODELS = ASSETS / "models"  # pipeline folders
SHIPPED_RUNS = ASSETS / "progress"


class Models(Mapping[str, str]):
    """Name -> location. Runs come and go while the app is up: their folders are read at every look-up.

    `given`: name -> pipeline folder, published file or hub id. `runs`: folders of run folders; the first that has a run
    of a name counts.
    """

    def __init__(self, given: Mapping[str, str], runs: Sequence[Path] = ()):
        self.given = dict(given)
        self.runs = list(runs)

    def __getitem__(self, name: str) -> str:
        return self.given[name] if name in self.given else self.checkpoints()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.given | self.checkpoints())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def checkpoints(self) -> dict[str, str]:
        """Those that can be opened: of every run, the latest first."""
        locations = {}
        for run, folder in find_runs(self.runs).items():
            folders = checkpoint_folders(folder)
            locations |= {checkpoint_name(run, step): str(folders[step]) for step in reversed(folders)}
        return locations


def find_models(chosen: str, shipped: Path = MODELS) -> dict[str, str]:
    """Name -> location: the chosen model first, then the others that are shipped."""
    models = {name_of(chosen): chosen}
    for folder in sorted(index.parent for index in shipped.glob("*/model_index.json")):
        if not (expand(chosen).exists() and folder.samefile(expand(chosen))):
            models.setdefault(folder.name, str(folder))
    return models


def name_of(location: str) -> str:
    """The last part of a path or hub id; of a checkpoint's path, what `checkpoint_name` says."""
    *_, run, above, last = ["", "", *expand(location).resolve().parts]
    step = last.removeprefix("step_")
    return checkpoint_name(run, int(step)) if above == "checkpoints" and step.isdecimal() else last


def checkpoint_name(run: str, step: int) -> str:
    """What the checkpoint of a run is called among the models, and in recipes."""
    return f"{run} @ {step}"
