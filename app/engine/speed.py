"""How long a run will take on this machine, from what runs took on it."""

import threading
from collections.abc import Hashable


class Speeds:
    """Seconds that one model evaluation of every image took, by model and number of images.

    The first run of a model compiles and fills caches: the warm-up takes it. Nothing is faster than the machine, but
    much beside other work is slower: so a quicker run is believed, and a slower one by half.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[Hashable, int], float] = {}
        self._lock = threading.Lock()

    def record(self, model: Hashable, num_images: int, evaluations: int, seconds: float) -> None:
        """A run of `num_images` took this long for so many evaluations of each."""
        latest = seconds / evaluations
        with self._lock:
            before = self._seconds.get((model, num_images), latest)
            self._seconds[model, num_images] = min(latest, (latest + before) / 2)

    def estimate(self, model: Hashable, num_images: int, evaluations: int) -> float | None:
        """Seconds for a run; scaled from the nearest number of images that was run, None where the model never ran."""
        with self._lock:
            counts = [count for name, count in self._seconds if name == model]
            if not counts:
                return None
            nearest = min(counts, key=lambda count: abs(count - num_images))
            return self._seconds[model, nearest] * evaluations * num_images / nearest
