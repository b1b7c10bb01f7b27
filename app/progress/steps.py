"""From step to step: where the slider stands, and what belongs to the step it stands at."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.engine.models import checkpoint_name
from app.engine.runs import RunSnapshot


def all_steps(runs: Iterable[RunSnapshot]) -> list[int]:
    """Every step at which any of the runs has samples."""
    return sorted({step for run in runs for step in run.sheets})


def at_or_below(steps: Iterable[int], step: int) -> int | None:
    """The nearest of `steps` that is not after `step`; None where all are."""
    ordered = sorted(steps)
    place = bisect_right(ordered, step)
    return ordered[place - 1] if place else None


def slider_position(before: Sequence[int], position: int, now: Sequence[int]) -> int:
    """Where a slider has to stand that stood at `position` when there were the steps `before`: at the same step, but at
    the end where it was at the end, so that it shows a run as it grows."""
    if not before or position >= len(before) - 1:
        return max(len(now) - 1, 0)
    return max(bisect_right(now, before[position]) - 1, 0)


@dataclass(frozen=True)
class CheckpointChoice:
    """A checkpoint that can be chosen on the page."""

    run: str
    step: int
    problem: str  # why it cannot be opened, or ""

    @property
    def label(self) -> str:
        return f"{self.run} · step {self.step:,}" + (" · unreadable" if self.problem else "")


def checkpoints_of(runs: Iterable[RunSnapshot]) -> dict[str, CheckpointChoice]:
    """All checkpoints of some runs, by the names that they have among the models."""
    return {
        checkpoint_name(run.name, step): CheckpointChoice(run.name, step, problem)
        for run in runs
        for step, problem in run.checkpoints.items()
    }


def suggested_checkpoint(runs: Sequence[RunSnapshot], step: int, chosen: str | None) -> str | None:
    """The checkpoint that belongs to a step: the nearest before it, of the run whose checkpoint was chosen."""
    before = checkpoints_of(runs).get(chosen)
    having = [run for run in runs if run.checkpoints]
    run = next((run for run in having if before and run.name == before.run), having[0] if having else None)
    if run is None:
        return None
    return checkpoint_name(run.name, at_or_below(run.checkpoints, step) or min(run.checkpoints))
