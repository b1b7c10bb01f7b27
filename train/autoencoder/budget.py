"""How long a training lasts: a number of steps, or of minutes on whatever machine it runs."""

import time
from collections.abc import Iterator
from itertools import count, takewhile


class Progress:
    """The steps of a training that lasts so many steps, or so many minutes: iterate over it.

    `share` is how much of it is over, 0 to 1, as the current step began; `total` the number of steps, if known. The
    clock runs from the first step on.

    Raises:
        ValueError: no step would be taken.
    """

    def __init__(self, steps: int, minutes: float | None = None):
        if steps < 1 or (minutes is not None and not minutes > 0):
            raise ValueError(f"--steps must be at least 1 and --minutes above 0, not {steps} and {minutes}")
        self.total, self.minutes, self.share = None if minutes else steps, minutes, 0.0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def is_over(self, steps: int) -> bool:
        """Whether `steps` steps are all; once true, it stays so."""
        if self.share < 1:
            self.share = steps / self.total if self.total else self.seconds / 60 / self.minutes
        return self.share >= 1

    def __iter__(self) -> Iterator[int]:
        self.began = time.monotonic()
        return takewhile(lambda step: not self.is_over(step), count())
