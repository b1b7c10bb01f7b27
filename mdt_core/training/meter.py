"""What a run measures of itself: means of losses, images per second, FLOPs utilisation, and steps gone wrong."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.training.draws import Pass


class Meter:
    """Means of what was added since it was last read, kept on the device until then. Values not finite are left out."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, where: Tensor | bool = True) -> None:
        values = values.detach().float()
        counted = values.isfinite() & where
        self.sums[name] = self.sums.get(name, 0) + torch.where(counted, values, 0).sum()
        self.counts[name] = self.counts.get(name, 0) + counted.sum()

    def add_pass(self, one: Pass, terms: dict[str, Tensor]) -> None:
        """A pass's terms: the full one under plain names and by quarter of the timesteps, the masked one apart."""
        if one.keep is not None:
            self.add("masked_loss", terms["loss"])
            return
        for term, values in terms.items():
            self.add(term, values)
        quarter = one.timesteps * 4 // NUM_TIMESTEPS
        for q in range(4):
            self.add(f"loss_q{q + 1}", terms["loss"], where=quarter == q)

    def read(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means; `total` sums a tensor over all processes."""
        names = sorted(self.sums)
        pairs = torch.stack([torch.stack([self.sums[n], self.counts[n].float()]) for n in names])
        sums, counts = total(pairs).T.tolist()
        self.__init__()
        return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}


class Clock:
    """Seconds since the run's start, and how fast it trains while it does nothing else."""

    def __init__(self, seconds: float):
        """`seconds`: that the run took before it was interrupted."""
        now = time.perf_counter()
        self.start, self.lap, self.steps = now - seconds, now, 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While pictures or checkpoints are made."""
        before = time.perf_counter()
        yield
        self.lap += time.perf_counter() - before

    def read(self) -> tuple[float, float]:
        """Seconds since the start, and steps per second since this was last asked."""
        now = time.perf_counter()
        speed = self.steps / max(now - self.lap, 1e-9)
        self.lap, self.steps = now, 0
        return now - self.start, speed


class Watch:
    """Finds the steps whose gradient was not finite, which the optimizer left out, without waiting for each step."""

    def __init__(self):
        self.norms: dict[int, Tensor] = {}  # step -> its gradient norm, on the device
        self.in_a_row = 0  # of the last ones read

    def read(self) -> list[int]:
        """The bad ones among the steps since this was last asked."""
        norms = torch.stack(list(self.norms.values())).tolist() if self.norms else []
        bad = {step for step, norm in zip(self.norms, norms, strict=True) if not abs(norm) < float("inf")}
        for step in self.norms:
            self.in_a_row = self.in_a_row + 1 if step in bad else 0
        self.norms = {}
        return sorted(bad)
