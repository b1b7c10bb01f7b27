"""The run folder: written by training, read by the app.

    config.json                       everything that made the run
    metrics.jsonl                     one JSON object per logged step
    samples/step_00001000.png         the same seeds and classes at growing steps
    checkpoints/step_00001000/        transformer/ (averaged weights), raw.safetensors, optimizer.safetensors;
                                      of a milestone that is no longer among the last ones, transformer/ alone
    pipeline/                         the finished model, with its autoencoder: a diffusers pipeline folder

Everything that a reader may look at appears in one piece: it is written beside its place and then renamed.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

STEP_DIGITS = 8


@dataclass(frozen=True)
class Run:
    """One training run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> dict:
        """The run's configuration; empty where there is none."""
        path = self.folder / "config.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def metrics(self) -> list[dict]:
        """The logged rows so far, by step; a last line that is still being written is left out."""
        path = self.folder / "metrics.jsonl"
        rows: dict[int, dict] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["step"]] = row  # after a resume, the later row of a step counts
        return [rows[step] for step in sorted(rows)]

    @property
    def samples(self) -> dict[int, Path]:
        """Step -> picture of the samples at that step."""
        return _by_step((self.folder / "samples").glob("step_*.png"))

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint folder."""
        return _by_step((self.folder / "checkpoints").glob("step_*"))

    def write_config(self, config: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))

    def log(self, row: dict) -> None:
        """Append one row; it has a "step"."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def write_sample(self, step: int, image) -> None:
        """Keep a PIL picture of the samples at `step`."""
        path = self.folder / "samples" / f"step_{step:0{STEP_DIGITS}d}.png"
        write_whole(path, lambda partial: image.save(partial, format="png"))

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Make a checkpoint: `write(folder)` fills it."""

        def fill(partial: Path) -> None:
            partial.mkdir()
            write(partial)

        write_whole(self.folder / "checkpoints" / f"step_{step:0{STEP_DIGITS}d}", fill)

    def prune_checkpoints(self, keep: int, milestones: Collection[int] = ()) -> None:
        """Leave the last `keep` checkpoints whole; of older ones, the averaged weights of milestones stay."""
        for step in list(self.checkpoints)[:-keep]:
            folder = self.checkpoints[step]
            for path in folder.iterdir() if step in milestones else [folder]:
                if path.name != "transformer":
                    _remove(path)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(partial)` make a file or folder beside `path`, then put it in its place in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        write(partial)
        if path.is_dir():
            _remove(path)
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _by_step(paths) -> dict[int, Path]:
    steps = {int(path.stem.removeprefix("step_")): path for path in paths}
    return dict(sorted(steps.items()))
