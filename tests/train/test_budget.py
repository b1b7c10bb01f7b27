"""How long a training lasts: so many steps, or so many minutes."""

import pytest

from train.autoencoder import budget
from train.autoencoder.budget import Progress


def test_so_many_steps():
    progress = Progress(4)
    assert [(step, progress.share) for step in progress] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert progress.total == 4 and progress.is_over(4)


def test_so_many_minutes(monkeypatch):
    """A step of 20 seconds: whatever number of steps was named, three fit a minute, and the third knows it is last."""
    clock = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    progress, seen = Progress(1000, minutes=1), []
    clock[0] += 500  # what is prepared meanwhile does not count
    for step in progress:
        seen.append((step, progress.share))
        clock[0] += 20
        last = progress.is_over(step + 1)
    assert seen == [(0, 0.0), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]
    assert last and progress.total is None and progress.seconds == 60


@pytest.mark.parametrize(("steps", "minutes"), [(0, None), (10, 0), (10, -1)])
def test_a_training_without_a_step_is_refused(steps, minutes):
    with pytest.raises(ValueError, match="--steps must be at least 1 and --minutes above 0"):
        Progress(steps, minutes)
