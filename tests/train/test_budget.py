"""How long a training lasts: so many steps, or so many minutes."""

import pytest

from train import budget
from train.autoencoder.config import AutoencoderConfig
from train.budget import Budget


def test_so_many_steps():
    training = Budget(4)
    assert [(step, training.progress) for step in training] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert training.total == 4 and training.is_over(4)


def test_so_many_minutes(monkeypatch):
    """A step of 20 seconds: whatever number of steps was named, three fit a minute, and the third knows it is last."""
    clock = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    training, seen = Budget(1000, minutes=1), []
    clock[0] += 500  # what is prepared meanwhile does not count
    for step in training:
        seen.append((step, training.progress))
        clock[0] += 20
        last = training.is_over(step + 1)
    assert seen == [(0, 0.0), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]
    assert last and training.total is None and training.seconds == 60


def test_what_is_left_of_an_interrupted_training(monkeypatch):
    """Catches a resumed training that lasts as long again, or whose learning rate starts anew."""
    assert [(step, training.progress) for training in [Budget(4, done=2)] for step in training] == [(2, 0.5), (3, 0.75)]
    assert list(Budget(4, done=4)) == []
    clock = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    training, seen = Budget(1000, minutes=1, done=7, seconds=30), []
    for step in training:
        seen.append((step, training.progress))
        clock[0] += 20
    assert seen == [(7, 0.5), (8, pytest.approx(5 / 6))] and training.seconds == 70


@pytest.mark.parametrize(("steps", "minutes"), [(0, None), (10, 0), (10, -1)])
def test_a_training_without_a_step_is_refused(steps, minutes):
    with pytest.raises(ValueError, match=r"steps must be at least 1|minutes must be above 0"):
        AutoencoderConfig(steps=steps, minutes=minutes)
