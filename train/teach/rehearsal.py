"""What keeps the old classes: the model's own pictures of them, drawn once, among the new ones in every step.

Rehearsal on generated samples (arXiv 1705.08690) needs no data set: the model that is taught is its own teacher.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdt_core import MDTPipeline
from mdt_core.runs import write_whole
from mdt_core.training.draws import LatentData

BATCH = 16  # pictures drawn together, and kept in a file
FIRST_SEED = 3_000_000


def draw_rehearsal(
    pipe: MDTPipeline,
    labels: Sequence[int],
    folder: Path,
    how_many: Callable[[float], int],
    progress: Callable[[int, int], None],
) -> tuple[Tensor, Tensor]:
    """Draw the pictures that `folder` lacks, with the model's own preset "fast", and read them all.

    Args:
        pipe: the model as it is before it is taught.
        labels: the classes, drawn in turn.
        folder: for files of `BATCH` pictures.
        how_many: pictures, by the seconds that one takes; asked after the first batch.
        progress: is told how many are there, and how many there will be.

    Returns:
        latents (N, C, h, w) and class labels (N,).
    """
    settings = pipe.sampling_presets["fast"]
    parts: list[dict[str, Tensor]] = []
    count = BATCH
    while (done := len(parts) * BATCH) < count:
        path = folder / f"{len(parts):04d}.safetensors"
        if not path.exists():
            batch, begun = [labels[index % len(labels)] for index in range(done, done + BATCH)], time.perf_counter()
            seeds = list(range(FIRST_SEED + done, FIRST_SEED + done + BATCH))
            drawn = pipe(batch, seeds=seeds, output_type="latent", **settings.trajectory, **settings.guidance).images
            count = count if parts else how_many((time.perf_counter() - begun) / BATCH)
            tensors = {"latents": drawn.float().cpu(), "labels": torch.tensor(batch)}
            write_whole(path, partial(save_file, tensors, metadata={"count": str(count)}))
        with safe_open(path, framework="pt") as file:
            parts.append({name: file.get_tensor(name) for name in ("latents", "labels")})
            count = int(file.metadata()["count"])
        progress(min(len(parts) * BATCH, count), count)
    return torch.cat([part["latents"] for part in parts]), torch.cat([part["labels"] for part in parts])


class Lessons:
    """New pictures at the even indices, rehearsed ones at the odd: every batch is half of each. A `LatentData`.

    Args:
        new: the pictures that are taught.
        old: latents (N, C, h, w) and class labels (N,) of the rehearsed ones.
    """

    def __init__(self, new: LatentData, old: tuple[Tensor, Tensor]):
        self.new, (self.latents, self.labels) = new, old

    def __len__(self) -> int:
        return 2 * max(len(self.new), len(self.labels))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and std (N, C, h, w) and class labels (N,): first those of the new pictures."""
        places = torch.tensor(indices)
        new, old = (places[places % 2 == parity] // 2 for parity in (0, 1))
        old = old % len(self.labels)
        means, stds, labels = [self.latents[old]], [torch.zeros_like(self.latents[old])], [self.labels[old]]
        if len(new):
            mean, std, label = (part.cpu() for part in self.new.batch((new % len(self.new)).tolist()))
            means, stds, labels = [mean, *means], [std, *stds], [label, *labels]
        return torch.cat(means), torch.cat(stds), torch.cat(labels)
