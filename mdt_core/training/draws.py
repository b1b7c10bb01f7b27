"""What a training step draws, and the passes through the model that it makes of it.

All randomness of step k is drawn from (seed, k) alone, for the global batch, of which every process uses its
part. So there is no random state to save: the same command resumes where it stopped, the number of processes
changes nothing but the order of floating-point sums, and what a step drew can be drawn again for a report.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.masking import draw_keep
from mdt_core.training.config import TrainingConfig, num_kept


class LatentData(Protocol):
    """Encoded images: what training reads."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and standard deviation (N, C, h, w) in latent units, and class labels (N,)."""
        ...


def seed_of(name: str) -> int:
    """A seed that is the same in every process and on every machine, as Python's `hash` is not."""
    return random.Random(name).getrandbits(48)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(f"{seed}/epoch {epoch}")))


def batch_indices(step: int, batch_size: int, size: int, seed: int) -> list[int]:
    """The images of a step: a window onto an endless row of shuffled epochs.

    Args:
        step: from 0.
        batch_size: images of a step, over all processes.
        size: of the data set.
        seed: of the run.
    """
    indices: list[int] = []
    while left := batch_size - len(indices):
        epoch, start = divmod(step * batch_size + len(indices), size)
        indices += _epoch_order(seed, epoch, size)[start : start + left].tolist()
    return indices


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step, for the global batch or a part of it. B images, T tokens, K kept ones."""

    timesteps: Tensor  # (B,)
    drop_label: Tensor  # (B,) bool
    posterior: Tensor  # (B, C, h, w), standard normal
    noise: Tensor  # (B, C, h, w)
    masked_noise: Tensor  # (B, C, h, w), of the masked pass
    keep: Tensor | None  # (B, K)

    @classmethod
    def of_step(cls, step: int, config: TrainingConfig, shape: tuple[int, ...], num_tokens: int, device) -> "Draws":
        """Draw for step `step` and latents of `shape` (B, C, h, w)."""
        b = shape[0]
        seed = seed_of(f"{config.seed}/step {step}")
        g = torch.Generator(device).manual_seed(seed)
        normal = lambda: torch.randn(shape, generator=g, device=device)  # noqa: E731
        timesteps = torch.randint(NUM_TIMESTEPS, (b,), generator=g, device=device)
        drop_label = torch.rand(b, generator=g, device=device) < config.label_dropout
        posterior, noise, masked_noise = normal(), normal(), normal()
        keep = None
        if config.mask_ratio is not None:
            ratio = random.Random(seed).uniform(*config.mask_ratio)  # on the host: no synchronisation for a length
            order = torch.rand(b, num_tokens, generator=g, device=device)
            keep = draw_keep(order, num_kept(num_tokens, ratio))
        return cls(timesteps, drop_label, posterior, noise, masked_noise, keep)

    def part(self, rows: slice) -> "Draws":
        """The draws of some of the images."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Draws(**{name: None if value is None else value[rows] for name, value in values.items()})


# --- the passes of a step ------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One pass through the model: the arguments of `training_terms` after model and diffusion."""

    x_0: Tensor
    timesteps: Tensor
    class_labels: Tensor
    noise: Tensor
    keep: Tensor | None  # None: the full pass


def passes_of_step(
    data: LatentData, indices: list[int], draws: Draws, config: TrainingConfig, null_class: int
) -> list[Pass]:
    """A process's images of a step, in micro-batches, each in a full pass and, where tokens are hidden, a masked one.

    Args:
        data: the encoded images.
        indices: of the process's images.
        draws: of the same images.
        config: the recipe.
        null_class: stands for a dropped label.
    """
    passes, size = [], len(indices) // config.accumulation
    for start in range(0, len(indices), size):
        rows = slice(start, start + size)
        d = draws.part(rows)
        mean, std, labels = (to_device(x, d.noise.device) for x in data.batch(indices[rows]))
        x_0 = mean + std * d.posterior
        labels = torch.where(d.drop_label, null_class, labels)
        passes.append(Pass(x_0, d.timesteps, labels, d.noise, None))
        if d.keep is not None:
            passes.append(Pass(x_0, d.timesteps, labels, d.masked_noise, d.keep))
    return passes


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A copy to a GPU goes through pinned memory, and the host does not wait for it."""
    pinned = device.type == "cuda" and not tensor.is_cuda
    return tensor.pin_memory().to(device, non_blocking=True) if pinned else tensor.to(device)
