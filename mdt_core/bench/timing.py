"""Timing by taking turns: what is compared runs alternately in one process, so that both meet the same machine.

Absolute times drift with the machine's temperature and neighbours; the ratio of two runs that follow each other drifts
far less. So a ratio is the median over the rounds' own ratios, never the ratio of two medians.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """What one piece of work took, over the rounds."""

    seconds: tuple[float, ...]  # one per round
    peak_bytes: int | None  # most memory that a round added to what was held before it; None where it is not known

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance of the slowest from the fastest round, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median

    @property
    def peak_mib(self) -> int | None:
        """The peak in MiB; None where it is not known."""
        return None if self.peak_bytes is None else round(self.peak_bytes / 2**20)

    def ratio(self, other: "Timing") -> float:
        """How many times as long `other` took: the median over the rounds that both ran in."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def take_turns(
    work: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1, device: str | torch.device = "cpu"
) -> dict[str, Timing]:
    """Run every piece of work once a round, in alternating order, and time it.

    Args:
        work: name -> a call. What it returns is dropped before the next one starts.
        repeats: rounds that count, at least 1.
        warmup: rounds before them that do not.
        device: where the work runs; on a GPU the clock waits for it.

    Raises:
        ValueError: `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in work}
    peaks: dict[str, list[int | None]] = {name: [] for name in work}
    gc.collect()
    gc.freeze()  # the collection before each call then goes through what the calls left, not through all of torch
    try:
        for number in range(-warmup, repeats):
            for name in sorted(work, reverse=number % 2 == 1):
                memory = PeakMemory(device)
                wait(device)
                start = time.perf_counter()
                work[name]()
                wait(device)
                elapsed = time.perf_counter() - start
                if number >= 0:
                    seconds[name].append(elapsed)
                    peaks[name].append(memory.read())
    finally:
        gc.unfreeze()
    return {name: Timing(tuple(seconds[name]), None if None in peaks[name] else max(peaks[name])) for name in work}


def wait(device: str | torch.device) -> None:
    """Let a GPU finish what was launched."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory held since this was made, above what was held then, in bytes.

    On a GPU, that of torch's allocator; on Linux, the process's resident memory; elsewhere unknown.
    """

    STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        elif self.STATUS.exists():
            _return_free_memory()
            self.CLEAR.write_text("5")  # proc(5): the peak starts anew
            self.before = self._resident("VmRSS")

    def read(self) -> int | None:
        """Bytes; None where they are not known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(0, self._resident("VmHWM") - self.before) if self.STATUS.exists() else None

    def _resident(self, name: str) -> int:
        line = next(line for line in self.STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024  # proc counts in kB


def _return_free_memory() -> None:
    """Give what malloc keeps for later back to the system, so that it is not counted as held (glibc alone can)."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
