"""The models that can be chosen, by name: those given at start, and every checkpoint that the runs hold by now.

A name is looked up here and never becomes part of a path, so that nothing else on the machine can be opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.engine.runs import checkpoint_folders, find_runs
from mdt_core.fingerprint import fingerprint
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
        found = {}
        for run, folder in find_runs(self.runs).items():
            folders = checkpoint_folders(folder)
            found |= {checkpoint_name(run, step): str(folders[step]) for step in reversed(folders)}
        return found


def version_of(location: str) -> int:
    """A number that changes with the files of a model, wherever it lies here; of a hub id always the same."""
    path = expand(location)
    files = [path] if path.is_file() else [*path.glob("*.json"), *path.glob("*/*.json"), *path.glob("*/*.safetensors")]
    try:
        return hash(tuple(sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)))
    except OSError:  # one was replaced at this moment
        return 0


def weights_of(pipe) -> str:
    """16 hexadecimal digits that change with a model's weights: of a few of each tensor, for training moves all."""
    networks = [part for part in (pipe.transformer, getattr(pipe, "vae", None)) if part is not None]
    weights = (weight.detach().reshape(-1) for network in networks for weight in network.parameters())
    return fingerprint(weight[:: max(1, len(weight) // 16)].float() for weight in weights)


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
