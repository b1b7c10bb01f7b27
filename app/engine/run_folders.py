"""TODO."""

from collections.abc import Iterable
from pathlib import Path

from mdt_core.runs import Run


def find_runs(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> run folder, in folders of runs; of two with one name the first counts.

    A run has samples or checkpoints, or a configuration of a training. What leads out of its folder is left out.
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
    """Whether a folder is a training run: an autoencoder's, for one, has a configuration, too."""
    try:
        if (folder / "samples").is_dir() or (folder / "checkpoints").is_dir():
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
