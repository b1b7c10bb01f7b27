"""How long a training lasts, a number of steps or of minutes on whatever machine it runs, and what goes with that."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, takewhile


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """What every training by `run_steps` is told. ValueError where a value makes no sense."""

    steps: int = 4000
    minutes: float | None = None  # train for so long, however many steps that makes; None: by `steps`
    batch_size: int = 16
    learning_rate: float = 1e-3  # at its highest
    ema_decay: float = 0.998
    seed: int = 0
    log_every: int = 250
    save_every: int = 250
    keep_checkpoints: int = 2
    expect: str = ""  # what to expect of it, and by whose figures

    def __post_init__(self) -> None:
        self.check_counts("steps", "batch_size", "log_every", "save_every", "keep_checkpoints")
        self.check_amounts("learning_rate")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, not {self.minutes}")
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay must be 0 to 1, not {self.ema_decay}")

    def check_counts(self, *names: str) -> None:
        """ValueError where one of these is below 1. None is left alone."""
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def check_amounts(self, *names: str) -> None:
        """ValueError where one of these is below 0, or not finite."""
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")

    def describe(self) -> dict:
        """What config.json holds."""
        return asdict(self)


class Budget:
    """The steps that are left of a training that lasts so many steps, or so many minutes: iterate over it.

    `progress` is how much of it is over, 0 to 1, as the current step began; `total` the number of steps, if known. The
    clock runs from the first step on.

    Args:
        steps: of the whole training. minutes: in place of them.
        done: steps that were taken before. seconds: that they took.
    """

    def __init__(self, steps: int, minutes: float | None = None, done: int = 0, seconds: float = 0.0):
        self.total, self.minutes, self.progress = None if minutes else steps, minutes, 0.0
        self.done, self.seconds_before, self.began = done, seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the training's start, without its interruptions."""
        return self.seconds_before + time.monotonic() - self.began

    def is_over(self, steps: int) -> bool:
        """Whether `steps` steps are all; once true, it stays so."""
        if self.progress < 1:
            self.progress = steps / self.total if self.total else self.seconds / 60 / self.minutes
        return self.progress >= 1

    def __iter__(self) -> Iterator[int]:
        self.began = time.monotonic()
        return takewhile(lambda step: not self.is_over(step), count(self.done))
