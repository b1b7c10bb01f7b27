"""The run folder: written by training, read by the app.

    config.json                       everything that made the run, and its "classes": a name per column of the samples
    metrics.jsonl                     one JSON object per logged step
    evaluation.jsonl                  one JSON object per evaluated step: quality of its checkpoint's samples
    samples/step_00001000.png         the same seeds and classes at growing steps
    checkpoints/step_00001000/        transformer/ (averaged weights), raw.safetensors, optimizer.safetensors,
                                      SHA256SUMS;
                                      of a milestone that is no longer among the last ones, transformer/ alone
    pipeline/                         a diffusers pipeline folder: from the start autoencoder, class names and preview
                                      with the initial weights, at the end with the last averaged ones

Every file and folder appears in one piece: it is written beside its place, then renamed. So a reader at any moment, and
a run killed at any moment, find nothing half written but the last line of a JSON lines file.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CURE = "make it anew, or name another"  # what to do about a file that cannot be used


class DamagedFileError(ValueError):
    """A file is damaged, cut short or foreign; its cause is what the reader said."""


@dataclass(frozen=True)
class Run:
    """One training run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def config(self) -> dict:
        """The run's configuration; empty where there is none."""
        path = self.folder / "config.json"
        return read_json(path) if path.is_file() else {}

    @property
    def metrics(self) -> list[dict]:
        """The logged rows so far, by step; where a resumed run logged a step again, the later row."""
        return _rows_by_step(self.folder / "metrics.jsonl")

    def seconds_until(self, step: int) -> float:
        """How long the run took until `step`, over all its starts, as far as it logged."""
        return max((row.get("seconds", 0.0) for row in self.metrics if row["step"] <= step), default=0.0)

    @property
    def evaluations(self) -> list[dict]:
        """The evaluated steps so far: {"step": 1000, "kid_efflite0": 0.31, ...}, by step."""
        return _rows_by_step(self.folder / "evaluation.jsonl")

    @property
    def samples(self) -> dict[int, Path]:
        """Step -> picture of the samples at that step."""
        return _by_step(path for path in (self.folder / "samples").glob("step_*.png") if path.is_file())

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint folder."""
        return _by_step(path for path in (self.folder / "checkpoints").glob("step_*") if path.is_dir())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process; it is made here, and goes again if nothing was written into it.

        Raises:
            ValueError: another process has it. A lock ends with its process, however that ends.
        """
        new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = None if fcntl is None else os.open(self.folder, os.O_RDONLY)
        try:
            if descriptor is not None:
                _lock(descriptor, self.folder)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)
            if new and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def write_config(self, config: dict) -> None:
        """Keep the run's configuration."""
        write_whole(self.folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))

    def log(self, row: dict) -> None:
        """Append one row of metrics; it has a "step"."""
        append_row(self.folder / "metrics.jsonl", row)

    def write_evaluation(self, row: dict) -> None:
        """Append one row of a checkpoint's quality; it has a "step"."""
        append_row(self.folder / "evaluation.jsonl", row)

    def write_sample(self, step: int, image) -> None:
        """Keep a PIL picture of the samples at `step`."""
        path = self.folder / "samples" / f"{_step_name(step)}.png"
        write_whole(path, lambda partial: image.save(partial, format="png"))

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Make a checkpoint: `write(folder)` fills it."""

        def fill(partial: Path) -> None:
            partial.mkdir()
            write(partial)

        write_whole(self.folder / "checkpoints" / _step_name(step), fill)

    def prune_checkpoints(self, keep: int, milestones: Collection[int] = ()) -> None:
        """Keep the last `keep` checkpoints, and of others the averaged weights of `milestones`.

        What holds averaged weights alone does not count: no run goes on from it.
        """
        checkpoints = self.checkpoints
        whole = [s for s, folder in checkpoints.items() if any(path.name != "transformer" for path in folder.iterdir())]
        kept = set((whole or [*checkpoints])[-keep:])
        for step, folder in checkpoints.items():
            if step in kept:
                continue
            if step in milestones:
                for path in folder.iterdir():
                    if path.name != "transformer":
                        _remove(path)
            else:
                os.replace(folder, folder.with_name(f".{folder.name}.partial"))  # it disappears in one piece, too
        for partial in (self.folder / "checkpoints").glob(".*.partial"):  # also what a killed run was writing
            _remove(partial)


def pipeline_of(checkpoint: Path) -> tuple[Path, Path]:
    """What opens a checkpoint as a pipeline: its transformer, and its run's pipeline for everything else.

        transformer, rest = pipeline_of(Path("runs/avatars/checkpoints/step_00001000"))
        MDTPipeline.from_pretrained(rest, transformer=MDTTransformer.from_pretrained(transformer))

    Raises:
        ValueError: the folder is no checkpoint of a run, or its run has no pipeline folder.
    """
    transformer, pipeline = checkpoint / "transformer", checkpoint.resolve().parents[1] / "pipeline"
    if not (transformer / "config.json").is_file():
        raise ValueError(f"{checkpoint} is no checkpoint: RUN/checkpoints/step_XXXXXXXX with a transformer/ is needed")
    if not (pipeline / "model_index.json").is_file():
        raise ValueError(f"{checkpoint} lacks its run's {pipeline.parent.name}/pipeline: write it with train.export")
    return transformer, pipeline


def model_index_of(model: Path) -> Path:
    """The file with the class names and sampling settings of a pipeline folder, or of the run of a checkpoint.

    Raises:
        ValueError: it is neither.
    """
    if not model.is_dir():
        raise ValueError(f"{model} is no folder: a model's or RUN/checkpoints/step_XXXXXXXX is needed")
    index = model / "model_index.json"
    return index if index.is_file() else pipeline_of(model)[1] / index.name


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another process trains into {folder}: wait for it, stop it, or choose another --output-dir"
        ) from None
    except OSError:  # a file system that knows no locks
        pass


@contextmanager
def reading(path: Path, cure: str = CURE) -> Iterator[None]:
    """For the lines that read a file and check what it holds: whatever they raise becomes one sentence.

    Args:
        path: the file.
        cure: what to do about it.

    Raises:
        DamagedFileError: the file's name, the reason, and the cure.
        OSError: it is missing, or cannot be opened.
    """
    try:
        yield
    except Exception as error:  # damaged, cut short, foreign: the readers have no common base class
        if isinstance(error, FileNotFoundError) or getattr(error, "filename", None):
            raise  # the system's: it names the file, which may be whole
        said = " ".join(str(error).split())[:300] or type(error).__name__
        reason = f"it lacks {said}" if isinstance(error, KeyError) else said
        raise DamagedFileError(f"{path} cannot be used ({reason}): {cure}") from error


def read_json(path: Path, kind: type = dict, cure: str = CURE) -> Any:
    """What a JSON file holds, if it is of this kind. Raises as `reading` does."""
    with reading(path, cure):
        value = json.loads(path.read_bytes())
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__}")
        return value


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(partial)` make a file or folder beside `path`, then put it in its place in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "old"))
    _remove(partial)
    try:
        write(partial)
        if path.is_dir():  # a folder cannot be replaced: the old one is moved aside first
            _remove(old)  # of a process that was killed while it did
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        _remove(partial)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append_row(path: Path, row: dict) -> None:
    """Append a row to a JSON lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(max(0, file.tell() - 1))
        cut_short = file.read(1) not in (b"", b"\n")  # the last line, by a kill or a full disk: begin a new one
        file.write(b"\n" * cut_short + json.dumps(row).encode() + b"\n")


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON lines file; a line that is no whole row is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):  # cut short, or damaged
            continue
    return [row for row in rows if isinstance(row, dict)]


def _rows_by_step(path: Path) -> list[dict]:
    """The rows of a JSON lines file that have a "step", by it."""
    rows: dict[int, dict] = {}
    for row in read_rows(path):
        try:
            rows[int(row["step"])] = row
        except (ValueError, TypeError, KeyError, OverflowError):  # JSON but no row: a step of Infinity
            continue
    return [rows[step] for step in sorted(rows)]


def _step_name(step: int) -> str:
    return f"step_{step:08d}"


def _by_step(paths: Iterable[Path]) -> dict[int, Path]:
    steps = {int(step): path for path in paths if (step := path.stem.removeprefix("step_")).isdecimal()}
    return dict(sorted(steps.items()))
