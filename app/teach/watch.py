"""A teaching as the page sees it: what its process says, and the pictures that it has drawn so far."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.common.images import jpeg_uri, open_image
from app.common.stage import duration, figure, image, message, pictures, status_line
from app.engine.frames import evenly_spaced
from app.engine.runs import RunSnapshot, find_runs, inside, look_at, readable
from app.engine.sheets import SampleSheet
from train.teach import process
from train.teach.plan import TeachPlan
from train.teach.process import TeachStatus

MOST_TILES = 8  # of the newest samples
MOST_STEPS = 8  # of the row below, from the first to the newest
SIDE = 96  # pixels of a picture in it
PHASES = {  # as people say it
    "starting": "Getting ready",
    "encoding": "Looking at the pictures",
    "learning": "Learning",
    "finishing": "Saving",
    "done": "Learnt",
    "stopped": "Stopped",
    "failed": "Ended too early",
}
UNITS = {"encoding": "picture"}


@dataclass(frozen=True)
class Teaching:
    """A run that teaches, at one look."""

    plan: TeachPlan
    status: TeachStatus
    run: RunSnapshot

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return not self.status.running and self.status.phase == "done"

    @property
    def version(self) -> int:
        """Changes with anything that is shown but for the status line."""
        return hash((self.run.name, self.run.version, self.status.phase, self.status.running))

    @property
    def newest_checkpoint(self) -> int | None:
        """The step of the last one that can be opened."""
        return max((step for step, problem in self.run.checkpoints.items() if not problem), default=None)


def taught_runs(runs: Path) -> dict[str, Path]:
    """Name -> folder of the runs that teach, the newest first. A name becomes a path by being found here alone."""
    try:
        plans = [path for path in runs.glob("*/teach.json") if path.is_file() and inside(path, runs)]
        plans.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return {}
    return {readable(path.parent.name): path.parent for path in plans}


def look_into(name: str, runs: Path) -> Teaching:
    """One of them by now. ValueError where it is not there or cannot be read."""
    folder = taught_runs(runs).get(name)
    if folder is None:
        raise ValueError(f"There is no run {name!r} any more.")
    try:
        return Teaching(TeachPlan.load(folder), process.status(folder), look_at(name, find_runs([runs])))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"The run {name!r} is damaged: its files cannot be read.") from error


def running_name(runs: Path) -> str | None:
    """The name of the run that is at work on this machine; "" where it is not one of these."""
    folder = process.running_now()
    if folder is None:
        return None
    taught = taught_runs(runs).items()
    return next((name for name, own in taught if own.resolve() == Path(folder).resolve()), "")


# --- as HTML ---------------------------------------------------------------------------------------------------------


def state(teaching: Teaching) -> str:
    """The status line: how far the phase is, and of one that has ended how far the learning came."""
    status, run = teaching.status, teaching.run
    done, total = (status.step, status.steps) if status.running else (run.steps, run.total)
    text = PHASES.get(status.phase, status.phase)
    if total:
        text += f": {UNITS.get(status.phase, 'step')} <b>{done:,}</b> of {total:,}"
    if status.seconds_left is not None:
        text += f" · {duration(status.seconds_left)} left"
    if not status.running:
        text += f" · {duration(status.seconds)} in all"
    return status_line(done / total if total else 0.0, f"{text}. {html.escape(status.message)}".rstrip())


def samples(teaching: Teaching) -> str:
    """The newest samples of the classes that are taught, and how the first of them came about."""
    sheets, classes = teaching.run.sheets, teaching.run.classes
    columns = [i for i, name in enumerate(classes) if name in teaching.plan.pictures]
    if not sheets or not columns:
        return message("The first pictures come when it has learnt a little.")
    newest = max(sheets)
    try:
        sheet = open_image(sheets[newest].path, ("PNG",))
        rows = min(sheets[newest].rows, max(1, MOST_TILES // len(columns)))  # of a sample of each class
        places = [(column, row) for row in range(rows) for column in columns]
        tiles = [sheets[newest].cut_out(sheet, *place) for place in places]
        return pictures(tiles, [classes[column] for column, _ in places]) + way(sheets, columns[0])
    except ValueError:  # replaced at this moment
        return message("New pictures are being written.")


def way(sheets: Mapping[int, SampleSheet], column: int) -> str:
    """The first seed of a class from step to step, in a row."""
    steps, figures = sorted(sheets), []
    for step in (steps[i] for i in sorted(evenly_spaced(len(steps), MOST_STEPS))):
        sample = sheets[step].cut_out(open_image(sheets[step].path, ("PNG",)), column)
        figures.append(figure(image(jpeg_uri(sample, SIDE), f"At step {step:,}"), f"step {step:,}"))
    return f'<div class="teach-way">{"".join(figures)}</div>'
