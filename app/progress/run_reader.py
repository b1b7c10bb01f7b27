"""Training runs as the page shows them: found by name, read with distrust, and compared step by step.

A run may be written, damaged or deleted while it is looked at, so that reading ends in a `Progress`, whatever is there:
what cannot be read is named with its reason. A name is looked up among the runs that were found and never becomes part
of a path; links that lead out of a run's folder are not followed. What was read is kept until a size or a time of a
file changes.
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

from app.engine.run_folders import inside
from mdt_core.runs import Run

READ = (  # everything that the page depends on
    "config.json",
    "metrics.jsonl",
    "evaluation.jsonl",
    "samples/step_*.png",
    "checkpoints/step_*",
    "checkpoints/step_*/transformer/*",
    "pipeline/model_index.json",
)
VAST = 1e100  # no logged number says anything beyond, and no axis holds it; NaN is not below it either
LIVE_SECONDS = 180  # since the last writing, in which a run that is not at its end counts as being trained

Points = list[tuple[int, float]]  # (step, value), by step
Inventory = tuple[tuple[str, int, int], ...]  # (name inside the run, size in bytes, time in ns) of what is read


@dataclass(frozen=True)
class Sheet:
    """The picture of a step's samples: one column per class."""

    path: Path
    version: int  # changes with the file
    size: tuple[int, int]  # pixels


@dataclass(frozen=True)
class Progress:
    """A run as far as it has come. Where it cannot be read, `problem` says why and the rest is empty."""

    name: str
    problem: str = ""
    model: str = ""  # "MDTv2-XS/4"
    classes: tuple[str, ...] = ()  # of a sheet's columns; empty where they are not known
    rows: int = 1  # of a sheet
    total: int = 0  # steps that it is to have
    steps: int = 0  # steps that it has
    speed: float = 0.0  # images per second
    seconds_left: float = 0.0
    sheets: dict[int, Sheet] = field(default_factory=dict)
    loss: Points = field(default_factory=list)
    kid: Points = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)  # the classes that its checkpoints know, by index
    checkpoints: dict[int, str] = field(default_factory=dict)  # step -> why it cannot be opened, or ""
    weights: dict[int, int] = field(default_factory=dict)  # step -> a number that changes with the checkpoint's files
    notes: tuple[str, ...] = ()  # of pictures that cannot be read
    written: float = 0.0  # time of the last writing
    version: int = 0  # changes with any file that was read

    @property
    def live(self) -> bool:
        """Whether it seems to be trained at this moment."""
        return self.steps < self.total and time.time() - self.written < LIVE_SECONDS


def look_up(name: str, runs: Mapping[str, Path]) -> Progress:
    """The run of a name among those found. A name that is not there is no error: it may have been deleted just now."""
    if name not in runs:
        return Progress(name, problem="There is no run of this name any more.")
    folder = runs[name]
    try:
        return read(name, folder, inventory(folder))
    except FileNotFoundError:  # deleted while it was read
        return Progress(name, problem="The run's folder disappeared while it was read.")
    except json.JSONDecodeError as error:  # rows that are no JSON are left out
        return Progress(name, problem=f"The run's config.json is damaged or half written: {reason(error)}.")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        return Progress(name, problem=f"The run cannot be read: {reason(error)}.")


def inventory(folder: Path) -> Inventory:
    """What is read of a run, with sizes and times. OSError where it vanishes, ValueError where a link leads out."""
    found = []
    for pattern in READ:
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
def read(name: str, folder: Path, files: Inventory) -> Progress:
    """Read a run whose files are `files`. OSError where it vanishes; any error of broken data."""
    run = Run(folder)
    config, metrics, evaluations = run.config, run.metrics, run.evaluations
    last = metrics[-1] if metrics else {}
    training = config.get("training", {})
    total, steps = int(training.get("steps", 0)), int(last.get("step", 0))
    speed = float(last.get("images_per_second", 0))
    left = max(total - steps, 0) * int(training.get("batch_size", 0)) / speed if speed else 0.0
    versions = {name: (size, time_ns) for name, size, time_ns in files}
    sheets, notes = {}, []
    for step, path in run.samples.items():
        version = versions.get(f"samples/{path.name}")
        if version is None:  # it came just now: the next look finds it
            continue
        try:
            sheets[step] = read_sheet(path, version[1])
        except ValueError as error:
            notes.append(f"{path.name}: {error}")
    lacking = "" if "pipeline/model_index.json" in versions else "the run has no pipeline folder to open it with"
    return Progress(
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
        weights={step: hash(files_of(path, files)) for step, path in run.checkpoints.items()},
        notes=tuple(notes),
        written=max((time_ns for _, _, time_ns in files), default=0) / 1e9,
        version=hash(files),
    )


@lru_cache(maxsize=1024)
def read_sheet(path: Path, version: int) -> Sheet:
    """A sheet whose bytes are whole; no pixel is decoded. ValueError says what is wrong."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            size = image.size
            image.verify()
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError("this picture is damaged or cut short") from error
    return Sheet(path, version, size)


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
    return [(step, float(y)) for step, y in pairs if isinstance(y, int | float) and 0 < step < VAST and abs(y) < VAST]


def kid_key(rows: Iterable[Mapping[str, Any]]) -> str:
    """The column that holds the KID: its name says which network's features it compares."""
    keys = (key for row in rows for key in row)
    return next((key for key in keys if key.startswith("kid") and not key.endswith("error")), "kid")


def first_choice(runs: Mapping[str, Path], shipped: Path) -> list[str]:
    """What the page opens with: a run that is being trained, else the two that are shipped, else the newest."""
    seen = sorted((look_up(name, runs) for name in runs), key=lambda run: run.written, reverse=True)
    live = [run.name for run in seen if run.live]
    return live[:1] or [name for name, path in runs.items() if path.parent == shipped][:2] or [seen[0].name]


def reason(error: Exception) -> str:
    """An error in at most a line."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return (" ".join(text.split()) or type(error).__name__)[:160].rstrip(".")
