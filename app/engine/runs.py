"""Training runs, found by name and read with distrust.

A run may be written, damaged or deleted while it is looked at. So a look always ends in a `RunSnapshot`, in which what
cannot be read is named with its reason. A name is looked up among the runs that were found and never becomes part of a
path, nothing is read through a link that leads out of its folder, and what is neither file nor folder (a pipe, a
device) is passed over. A snapshot is kept until a file changes, and a log is read only where it has grown.
"""

import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from app.engine.logs import Curve, Log
from app.engine.model_info import usable
from app.engine.sheets import SampleSheet, read_sheet
from mdt_core.pipeline.settings import sampling_presets
from mdt_core.runs import DamagedFileError, Run

FILES = (  # of a run, that a snapshot depends on
    "config.json",
    "metrics.jsonl",
    "evaluation.jsonl",
    "samples/step_*.png",
    "checkpoints/step_*",
    "checkpoints/step_*/transformer/*",
    "pipeline/model_index.json",
)
LIVE_SECONDS = 180  # a run that is not at its end counts as being trained so long after its last writing
MOST_KEPT = 64  # snapshots

Inventory = tuple[tuple[str, int, int, int], ...]  # of files: (name inside the run, bytes, time in ns, number on disk)


@dataclass(frozen=True)
class RunSnapshot:
    """A run as it was at one look. Where it cannot be read, `problem` says why and the rest is empty."""

    name: str
    problem: str = ""
    model: str = ""  # "MDTv2-XS/4"
    classes: tuple[str, ...] = ()  # of a sheet's columns; empty where they are not known
    total: int = 0  # steps that it is to have
    steps: int = 0  # steps that it has
    speed: float = 0.0  # images per second
    seconds_left: float = 0.0
    sheets: dict[int, SampleSheet] = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    kid: Curve = field(default_factory=Curve)
    labels: dict[int, str] = field(default_factory=dict)  # the classes that its checkpoints know, by index
    sampling_defaults: dict[str, Any] = field(default_factory=dict)  # a key of SAMPLING -> what they begin with
    checkpoints: dict[int, str] = field(default_factory=dict)  # step -> why it cannot be opened, or ""
    weights_versions: dict[int, int] = field(default_factory=dict)  # step -> changes with the checkpoint's files
    notes: tuple[str, ...] = ()  # of what could not be read, or not yet
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
                found.setdefault(readable(path.name), path)
    return found


def readable(text: object) -> str:
    """A text that can be sent: a name on the disk need not be UTF-8, and JSON can hold half a character."""
    return str(text).encode("utf-8", "backslashreplace").decode()


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
        if not (index.is_file() and inside(index, folder) and is_plain(index.parent)):
            return {}
        weights = {step: path / "transformer" for step, path in Run(folder).checkpoints.items()}
        return {step: path.parent for step, path in weights.items() if is_plain(path) and inside(path, folder)}
    except OSError:  # a folder that may not be read
        return {}


def is_plain(folder: Path) -> bool:
    """Whether a folder holds files and folders alone: to open a pipe in it would wait for ever."""
    return folder.is_dir() and all(path.is_file() or path.is_dir() for path in folder.rglob("*"))


def look_at(name: str, runs: Mapping[str, Path]) -> RunSnapshot:
    """A run of those found, by its name. One that is not there is no error: it may have been deleted just now."""
    if name not in runs:
        return RunSnapshot(name, problem="There is no run of this name any more.")
    try:
        return reader_of(name, runs[name]).look()
    except FileNotFoundError:  # deleted while it was read
        return RunSnapshot(name, problem="The run's folder disappeared while it was read.")
    except DamagedFileError as error:  # rows that are no JSON are left out
        return RunSnapshot(
            name, problem=f"The run's config.json is damaged or half written: {reason(error.__cause__)}."
        )
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
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    if not found:
        raise FileNotFoundError(folder)
    return tuple(found)


class RunReader:
    """The one reader of a run's files, which keeps what has not changed since its last look."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.metrics = Log(folder / "metrics.jsonl", lambda row: "loss")
        self.evaluations = Log(folder / "evaluation.jsonl", kid_key)
        self.seen: RunSnapshot | None = None
        self.files: Inventory = ()

    def look(self) -> RunSnapshot:
        """The run by now. OSError where it vanishes; any error of broken data."""
        files = inventory(self.folder)
        if self.seen is None or self.files != files or self.metrics.behind or self.evaluations.behind:
            self.seen, self.files = self.read(files), files
        return self.seen

    def read(self, files: Inventory) -> RunSnapshot:
        """The run whose files are `files`."""
        run, folder = Run(self.folder), self.folder
        config, (loss, last), (kid, _) = run.config, self.metrics.read(), self.evaluations.read()
        training = config.get("training", {})
        total, steps = int(training.get("steps", 0)), last.get("step", 0)
        speed = float(last.get("images_per_second", 0))
        left = max(total - steps, 0) * int(training.get("batch_size", 0)) / speed if speed else 0.0
        sheets, notes = read_sheets(run, int(config.get("samples_per_class", 1)), files)
        if self.metrics.behind:
            notes.append(f"The log is long: it has been read up to step {steps:,}.")
        lacking = "the run has no pipeline folder to open it with"
        if any(name == "pipeline/model_index.json" for name, *_ in files):
            lacking = "" if is_plain(folder / "pipeline") else "its run's pipeline folder holds a pipe or a device"
        labels, sampling_defaults = read_pipeline(folder / "pipeline" / "model_index.json")
        return RunSnapshot(
            name=self.name,
            model=readable(config.get("model", "")),
            classes=tuple(map(readable, config.get("classes", ()))),
            total=total,
            steps=max([steps, *sheets]),
            speed=speed,
            seconds_left=left,
            sheets=sheets,
            loss=loss,
            kid=kid,
            labels=labels,
            sampling_defaults=sampling_defaults,
            checkpoints={step: check_checkpoint(path, files) or lacking for step, path in run.checkpoints.items()},
            weights_versions={step: hash(files_of(path, files)) for step, path in run.checkpoints.items()},
            notes=tuple(notes),
            last_written=max((time_ns for _, _, time_ns, _ in files), default=0) / 1e9,
            version=hash((files, len(loss), len(kid))),
        )


@lru_cache(maxsize=MOST_KEPT)
def reader_of(name: str, folder: Path) -> RunReader:
    """Of a run by its name."""
    return RunReader(name, folder)


def read_sheets(run: Run, rows: int, files: Inventory) -> tuple[dict[int, SampleSheet], list[str]]:
    """The sheets by step, and what is wrong with those that are left out. One that came just now comes next time."""
    versions = {file[0]: hash(file) for file in files}
    sheets, notes = {}, []
    for step, path in run.samples.items():
        if version := versions.get(f"samples/{path.name}"):
            try:
                sheets[step] = read_sheet(path, rows, version)
            except ValueError as error:
                notes.append(f"{path.name}: {error}")
    return sheets, notes


def read_pipeline(path: Path) -> tuple[dict[int, str], dict[str, Any]]:
    """The classes in a pipeline's index, and the settings that suit its model; none where they cannot be read, which
    opening a checkpoint then tells."""
    try:
        entries = json.loads(path.read_text()) if path.is_file() else {}
        labels = {int(index): readable(name) for index, name in entries["id2label"].items()}
        return labels, usable(sampling_presets(entries.get("sampling_defaults"))["balanced"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, {}


def files_of(checkpoint: Path, files: Inventory) -> Inventory:
    """Those that hold a checkpoint's averaged weights."""
    prefix = f"checkpoints/{checkpoint.name}/transformer/"
    return tuple(file for file in files if file[0].startswith(prefix))


def check_checkpoint(folder: Path, files: Inventory) -> str:
    """Why a checkpoint's averaged weights cannot be read; empty where they can. Reads the files' headers alone."""
    there = files_of(folder, files)
    weights = tuple(file for file in there if file[0].endswith(".safetensors"))
    if not any(name.endswith("/transformer/config.json") for name, *_ in there):
        return "transformer/config.json is missing"
    if not weights:
        return "its weights are missing"
    if not is_plain(folder / "transformer"):
        return "its folder holds a pipe or a device"
    shards = re.search(r"-of-(\d+)\.safetensors$", weights[0][0])
    if shards and len(weights) != int(shards[1]):
        return f"only {len(weights)} of its {int(shards[1])} weight files are there"
    return check_weights(folder / "transformer", weights)


@lru_cache(maxsize=1024)
def check_weights(folder: Path, files: Inventory) -> str:
    """The header of a safetensors file tells its length: a file that was cut short does not match it."""
    for name, *_ in files:
        try:
            with safe_open(folder / Path(name).name, framework="np"):
                pass
        except Exception:  # the library's own errors have no common base
            return f"{readable(Path(name).name)} is damaged or cut short"
    return ""


def kid_key(row: Mapping[str, Any]) -> str | None:
    """The column that holds the KID: its name says which network's features it compares."""
    return next((key for key in row if key.startswith("kid") and not key.endswith("error")), None)


def reason(error: Exception) -> str:
    """An error in at most a line."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return readable(" ".join(text.split()) or type(error).__name__)[:160].rstrip(".")
