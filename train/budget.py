"""How long a training lasts: a number of steps, or of minutes on whatever machine it runs."""

import time
from collections.abc import Iterator
from itertools import count, takewhile


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
