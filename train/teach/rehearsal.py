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

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.diffusion import Diffusion
from mdt_core.runs import write_whole
from mdt_core.training.draws import LatentData, Pass

REHEARSED_ROWS = 0.5  # share of a batch
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
            drawn = pipe(batch, seeds=seeds, output_type="latent", **settings.arguments).images
            count = count if parts else how_many((time.perf_counter() - begun) / BATCH)
            tensors = {"latents": drawn.float().cpu(), "labels": torch.tensor(batch)}
            write_whole(path, partial(save_file, tensors, metadata={"count": str(count)}))
        with safe_open(path, framework="pt") as file:
            parts.append({name: file.get_tensor(name) for name in ("latents", "labels")})
            count = int(file.metadata()["count"])
        progress(min(len(parts) * BATCH, count), count)
    return torch.cat([part["latents"] for part in parts]), torch.cat([part["labels"] for part in parts])


class Lessons:
    """New pictures, and in the last rows of every batch rehearsed ones: a `LatentData`.

    A rehearsed row is held to what the model predicted before it was taught, not to the noise (learning without
    forgetting, arXiv 1606.09282): a few hundred pictures then say what the model is, and not what it should become.

    Args:
        new: the pictures that are taught.
        old: latents (N, C, h, w) and class labels (N,) of the rehearsed ones.
        teacher: the model before; its classes are the first ones of the model that is taught.
        null_class: of the model that is taught.
    """

    def __init__(self, new: LatentData, old: tuple[Tensor, Tensor], teacher: MDTTransformer, null_class: int):
        self.new, (self.latents, self.labels) = new, old
        self.teacher, self.null_class, self.diffusion = teacher.eval().requires_grad_(False), null_class, Diffusion()

    def __len__(self) -> int:
        return len(self.new) * len(self.labels)  # so that each is drawn as often as its like

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and std (N, C, h, w) and class labels (N,)."""
        count = num_new(len(indices))
        mean, std, labels = (part.cpu() for part in self.new.batch([i % len(self.new) for i in indices[:count]]))
        places = torch.tensor(indices[count:], dtype=torch.int64) % len(self.labels)
        old = self.latents[places]
        return torch.cat([mean, old]), torch.cat([std, torch.zeros_like(old)]), torch.cat([labels, self.labels[places]])

    def target(self, inputs: Pass) -> Tensor:
        """What epsilon is held to in a pass: the noise, and of the rehearsed rows the teacher's prediction."""
        count = num_new(len(inputs.timesteps))
        x_0, timesteps, labels, noise, keep = (None if part is None else part[count:] for part in inputs[:5])
        labels = torch.where(labels == self.null_class, self.teacher.config.num_classes, labels)
        x_t = self.diffusion.add_noise(x_0, noise, timesteps)
        epsilon = self.teacher(x_t, timesteps, labels, keep=keep).chunk(2, dim=1)[0]
        return torch.cat([inputs.noise[:count], epsilon.to(inputs.noise)])


def num_new(batch_size: int) -> int:
    """How many rows of a batch are new pictures: the first ones."""
    return batch_size - int(REHEARSED_ROWS * batch_size)
