"""Training runs, found by name and read with distrust.

A run may be written, damaged or deleted while it is looked at. So a look always ends in a `RunSnapshot`, in which what
cannot be read is named with its reason. A name is looked up among the runs that were found and never becomes part of a
path, and nothing is read through a link that leads out of its folder. A snapshot is kept until the size or the time of
a file changes.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from mdt_core.runs import Run

FILES = (  # of a run, that a snapshot depends on
    "config.json",
    "metrics.jsonl",
    "evaluation.jsonl",
    "samples/step_*.png",
    "checkpoints/step_*",
    "checkpoints/step_*/transformer/*",
    "pipeline/model_index.json",
)
LARGEST = 1e100  # larger numbers say nothing, and no axis holds them; NaN is not below it either
LIVE_SECONDS = 180  # a run that is not at its end counts as being trained so long after its last writing

Points = list[tuple[int, float]]  # (step, value), by step
Inventory = tuple[tuple[str, int, int], ...]  # of files: (name inside the run, size in bytes, time in ns)


@dataclass(frozen=True)
class SampleSheet:
    """The picture of a step's samples: a column per class, a row per seed."""

    path: Path
    version: int  # changes with the file
    size: tuple[int, int]  # pixels


@dataclass(frozen=True)
class RunSnapshot:
    """A run as it was at one look. Where it cannot be read, `problem` says why and the rest is empty."""

    name: str
    problem: str = ""
    model: str = ""  # "MDTv2-XS/4"
    classes: tuple[str, ...] = ()  # of a sheet's columns; empty where they are not known
    rows: int = 1  # of a sheet
    total: int = 0  # steps that it is to have
    steps: int = 0  # steps that it has
    speed: float = 0.0  # images per second
    seconds_left: float = 0.0
    sheets: dict[int, SampleSheet] = field(default_factory=dict)
    loss: Points = field(default_factory=list)
    kid: Points = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)  # the classes that its checkpoints know, by index
    checkpoints: dict[int, str] = field(default_factory=dict)  # step -> why it cannot be opened, or ""
    weights_versions: dict[int, int] = field(default_factory=dict)  # step -> changes with the checkpoint's files
    notes: tuple[str, ...] = ()  # of pictures that cannot be read
    last_written: float = 0.0  # seconds, as time.time() counts
    version: int = 0  # changes with any file that was read

    @property
    def live(self) -> bool:
        """Whether it seems to be in training."""
        return self.steps < self.total and time.time() - self.last_written < LIVE_SECONDS


def find_runs(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> run folder, in folders of runs; of two with one name the first counts.

    A run has samples, checkpoints of a transformer, or a training's configuration. What leads out of its folder is left
    out.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())
        except OSError:  # not there, or not any more
            continue
        for path in paths:
            if not path.name.startswith(".") and inside(path, folder) and is_run(path):
                found.setdefault(path.name, path)
    return found


def is_run(folder: Path) -> bool:
    """Whether a folder is a diffusion model's run: an autoencoder's has a configuration and checkpoints, too."""
    try:
        if (folder / "samples").is_dir() or any((folder / "checkpoints").glob("step_*/transformer")):
            return True
        return inside(folder / "config.json", folder) and "training" in Run(folder).config
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, all its links followed, is in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def checkpoint_folders(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint of a run, of those that can be tried to open: with weights, and a pipeline for the rest."""
    try:
        index = folder / "pipeline" / "model_index.json"
        if not (index.is_file() and inside(index, folder)):
            return {}
        weights = {step: path / "transformer" for step, path in Run(folder).checkpoints.items()}
        return {step: path.parent for step, path in weights.items() if path.is_dir() and inside(path, folder)}
    except OSError:  # a folder that may not be read
        return {}


def look_at(name: str, runs: Mapping[str, Path]) -> RunSnapshot:
    """A run of those found, by its name. One that is not there is no error: it may have been deleted just now."""
    if name not in runs:
        return RunSnapshot(name, problem="There is no run of this name any more.")
    folder = runs[name]
    try:
        return read(name, folder, inventory(folder))
    except FileNotFoundError:  # deleted while it was read
        return RunSnapshot(name, problem="The run's folder disappeared while it was read.")
    except json.JSONDecodeError as error:  # rows that are no JSON are left out
        return RunSnapshot(name, problem=f"The run's config.json is damaged or half written: {reason(error)}.")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        return RunSnapshot(name, problem=f"The run cannot be read: {reason(error)}.")


def inventory(folder: Path) -> Inventory:
    """The files that a snapshot depends on. OSError where the run vanishes, ValueError where a link leads out."""
    found = []
    for pattern in FILES:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if not inside(path, folder):
                raise ValueError(f"{name} is a link that leads out of the run's folder")
            status = path.stat()
            found.append((name, status.st_size, status.st_mtime_ns))
    if not found:
        raise FileNotFoundError(folder)
    return tuple(found)


@lru_cache(maxsize=16)
def read(name: str, folder: Path, files: Inventory) -> RunSnapshot:
    """Read a run whose files are `files`. OSError where it vanishes; any error of broken data."""
    run = Run(folder)
    config, metrics, evaluations = run.config, run.metrics, run.evaluations
    last = metrics[-1] if metrics else {}
    training = config.get("training", {})
    total, steps = int(training.get("steps", 0)), int(last.get("step", 0))
    speed = float(last.get("images_per_second", 0))
    left = max(total - steps, 0) * int(training.get("batch_size", 0)) / speed if speed else 0.0
    sheets, notes = read_sheets(run, files)
    lacking = "the run has no pipeline folder to open it with"
    if any(name == "pipeline/model_index.json" for name, _, _ in files):
        lacking = ""
    return RunSnapshot(
        name=name,
        model=str(config.get("model", "")),
        classes=tuple(map(str, config.get("classes", ()))),
        rows=max(1, int(config.get("samples_per_class", 1))),
        total=total,
        steps=max([steps, *sheets]),
        speed=speed,
        seconds_left=left,
        sheets=sheets,
        loss=points(metrics, "loss"),
        kid=points(evaluations, kid_key(evaluations)),
        labels=read_labels(folder / "pipeline" / "model_index.json"),
        checkpoints={step: check_checkpoint(path, files) or lacking for step, path in run.checkpoints.items()},
        weights_versions={step: hash(files_of(path, files)) for step, path in run.checkpoints.items()},
        notes=tuple(notes),
        last_written=max((time_ns for _, _, time_ns in files), default=0) / 1e9,
        version=hash(files),
    )


def read_sheets(run: Run, files: Inventory) -> tuple[dict[int, SampleSheet], list[str]]:
    """The sheets by step, and what is wrong with those that are left out. One that came just now comes next time."""
    times = {name: time_ns for name, _, time_ns in files}
    sheets, notes = {}, []
    for step, path in run.samples.items():
        if version := times.get(f"samples/{path.name}"):
            try:
                sheets[step] = read_sheet(path, version)
            except ValueError as error:
                notes.append(f"{path.name}: {error}")
    return sheets, notes


@lru_cache(maxsize=1024)
def read_sheet(path: Path, version: int) -> SampleSheet:
    """A sheet whose bytes are whole; no pixel is decoded. ValueError says what is wrong."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            size = image.size
            image.verify()
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError("this picture is damaged or cut short") from error
    return SampleSheet(path, version, size)


def read_labels(path: Path) -> dict[int, str]:
    """The classes in a pipeline's index; none where it cannot be read, which opening a checkpoint then tells."""
    try:
        return {int(index): str(name) for index, name in json.loads(path.read_text())["id2label"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def files_of(checkpoint: Path, files: Inventory) -> Inventory:
    """Those that hold a checkpoint's averaged weights."""
    prefix = f"checkpoints/{checkpoint.name}/transformer/"
    return tuple(file for file in files if file[0].startswith(prefix))


def check_checkpoint(folder: Path, files: Inventory) -> str:
    """Why a checkpoint's averaged weights cannot be read; empty where they can. Reads the files' headers alone."""
    there = files_of(folder, files)
    weights = tuple(file for file in there if file[0].endswith(".safetensors"))
    if not any(name.endswith("/transformer/config.json") for name, _, _ in there):
        return "transformer/config.json is missing"
    if not weights:
        return "its weights are missing"
    shards = re.search(r"-of-(\d+)\.safetensors$", weights[0][0])
    if shards and len(weights) != int(shards[1]):
        return f"only {len(weights)} of its {int(shards[1])} weight files are there"
    return check_weights(folder / "transformer", weights)


@lru_cache(maxsize=1024)
def check_weights(folder: Path, files: Inventory) -> str:
    """The header of a safetensors file tells its length: a file that was cut short does not match it."""
    for name, _, _ in files:
        try:
            with safe_open(folder / Path(name).name, framework="np"):
                pass
        except Exception:  # the library's own errors have no common base
            return f"{Path(name).name} is damaged or cut short"
    return ""


def points(rows: Iterable[Mapping[str, Any]], key: str) -> Points:
    """A column of logged rows where it is a number that can be drawn."""
    pairs = [(int(row["step"]), row.get(key)) for row in rows]
    numbers = [(step, value) for step, value in pairs if isinstance(value, int | float)]
    return [(step, float(value)) for step, value in numbers if 0 < step < LARGEST and abs(value) < LARGEST]


def kid_key(rows: Iterable[Mapping[str, Any]]) -> str:
    """The column that holds the KID: its name says which network's features it compares."""
    keys = (key for row in rows for key in row)
    return next((key for key in keys if key.startswith("kid") and not key.endswith("error")), "kid")


def reason(error: Exception) -> str:
    """An error in at most a line."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return (" ".join(text.split()) or type(error).__name__)[:160].rstrip(".")
