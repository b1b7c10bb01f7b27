"""What a run logs of itself: means of its losses, its speed, and the steps that were skipped."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.losses import TERMS
from mdt_core.training.draws import Pass


class AverageMeter:
    """Means over all values since the last `read`, kept on the device until then. Values not finite are left out."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, where: Tensor | bool = True) -> None:
        """Count `values`, of any shape, into the mean called `name`; only those `where` it is true."""
        values = values.detach().float()
        counted = values.isfinite() & where
        self.sums[name] = self.sums.get(name, 0) + torch.where(counted, values, 0).sum()
        self.counts[name] = self.counts.get(name, 0) + counted.sum()

    def add_step(self, passes: Sequence[Pass], outputs: dict[str, Tensor]) -> None:
        """Count what a training step gave (`make_training_step`).

        A full pass's terms are counted under their names, and its loss also by quarter of the timesteps; of a masked
        pass the loss alone.
        """
        for number, inputs in enumerate(passes):
            loss = outputs[f"loss {number}"]
            if inputs.keep is not None:
                self.add("masked_loss", loss)
                continue
            for term in TERMS:
                self.add(term, outputs[f"{term} {number}"])
            quarter = inputs.timesteps * 4 // NUM_TIMESTEPS
            for q in range(4):
                self.add(f"loss_q{q + 1}", loss, where=quarter == q)
        self.add("gradient_norm", outputs["gradient_norm"])

    def read(self, reduce_sum: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means, over all processes; `reduce_sum` adds up a tensor over them."""
        names = sorted(self.sums)
        pairs = torch.stack([torch.stack([self.sums[n], self.counts[n].float()]) for n in names])
        sums, counts = reduce_sum(pairs).T.tolist()
        self.sums, self.counts = {}, {}
        return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}


class StepTimer:
    """How long a run has trained, and how fast it trains while it saves nothing.

    Args:
        images: of one step, over all processes.
        seconds_at_peak: of one step, if the devices ran at their peak; None: not known.
        seconds_before: that the run took before it was interrupted.
    """

    def __init__(self, images: int, seconds_at_peak: float | None, seconds_before: float):
        now = time.perf_counter()
        self.images, self.seconds_at_peak = images, seconds_at_peak
        self.begun, self.last_read, self.steps = now - seconds_before, now, 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the speed what happens inside: checkpoints and samples."""
        before = time.perf_counter()
        yield
        self.last_read += time.perf_counter() - before

    def read(self) -> dict[str, float]:
        """Seconds since the run began; since the last `read`, images per second and model FLOPs utilisation (MFU)."""
        now = time.perf_counter()
        steps_per_second = self.steps / max(now - self.last_read, 1e-9)
        self.last_read, self.steps = now, 0
        row = {"seconds": now - self.begun, "images_per_second": self.images * steps_per_second}
        if self.seconds_at_peak is not None:
            row["mfu"] = self.seconds_at_peak * steps_per_second
        return row


class SkippedSteps:
    """The steps that the optimizer skipped because their gradient was not finite, found without waiting for each."""

    def __init__(self):
        self.norms: dict[int, Tensor] = {}  # step -> its gradient norm, on the device
        self.in_a_row = 0  # of the steps read so far, how many at their end

    def read(self) -> list[int]:
        """Those among the steps whose norms were added since the last `read`."""
        norms = torch.stack(list(self.norms.values())).tolist() if self.norms else []
        skipped = [step for step, norm in zip(self.norms, norms, strict=True) if not abs(norm) < float("inf")]
        for step in self.norms:
            self.in_a_row = self.in_a_row + 1 if step in skipped else 0
        self.norms = {}
        return skipped
