"""The latents that a diffusion model makes, drawn once and kept: what its decoder is tuned on.

samples        out of pure noise, as the app draws them
round trips    latents of images, noised part of the way and sampled back (SDEdit, arXiv 2108.01073, section 3)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mdt_core import MDTPipeline
from mdt_core.diffusion import Diffusion
from mdt_core.fingerprint import fingerprint
from mdt_core.guidance import guide
from mdt_core.masking import mask_noise
from mdt_core.runs import write_whole
from mdt_core.samplers import generators, noise_like, sample, sampling_timesteps
from train.autoencoder.config import DecoderConfig
from train.evaluate.samples import labels_of, weights_fingerprint
from train.files import open_tensors
from train.latents.dataset import Latents

ROUND_TRIP_START = (80, 400)  # timesteps at which a round trip may start, least and most
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Batch:
    """Latents that are drawn together."""

    kind: str  # "samples" or "round_trips"
    places: Tensor  # (N,): the classes of samples, the indices of the images of round trips
    first_seed: int  # of the first one; the others follow
    start: int  # step of the schedule that it starts from; 0: from pure noise


@dataclass(frozen=True)
class Generated:
    """What was drawn."""

    samples: Tensor  # (S, C, h, w)
    labels: Tensor  # (S,), their classes
    round_trips: Tensor  # (R, C, h, w)
    indices: Tensor  # (R,), the images that they were made of


def plan_batches(config: DecoderConfig, num_images: int, num_classes: int, timesteps: Sequence[int]) -> Iterator[Batch]:
    """What is to be drawn; it follows from the configuration and the model's own `timesteps` alone."""
    random = torch.Generator().manual_seed(config.seed)
    count = config.num_samples if config.critic_weight > 0 else 0
    labels = torch.arange(count) % max(1, num_classes)  # where there are no classes, 0 is the null one
    indices = torch.randperm(num_images, generator=random)[: config.num_round_trips]

    def split(places: Tensor) -> Sequence[Tensor]:
        return places.split(config.sampling_batch_size) if len(places) else ()  # an empty tensor would be a part

    least, most = ROUND_TRIP_START
    starts = [step for step, t in enumerate(timesteps) if least <= t <= most] or [len(timesteps) - 1]
    parts = [("samples", places, 0) for places in split(labels)]
    for places in split(indices):
        parts.append(("round_trips", places, starts[int(torch.randint(len(starts), (), generator=random))]))
    seed = FIRST_SEED
    for kind, places, start in parts:
        yield Batch(kind, places, seed, start)
        seed += len(places)


@torch.no_grad()
def sample_from(pipe: MDTPipeline, latents: Tensor, labels: Tensor, first_seed: int, start: int) -> Tensor:
    """Latents of images, noised to step `start` of the model's own settings, and sampled from there by them.

    Args:
        pipe: gives the diffusion model and its `sampling_defaults`.
        latents: (N, C, h, w); at `start` 0 nothing is left of them.
        labels: (N,) classes.
        first_seed: of the first image; the others follow.
        start: 0 to the number of steps - 1.

    Returns:
        (N, C, h, w).
    """
    settings, seeds = pipe.sampling_defaults, range(first_seed, first_seed + len(labels))
    timesteps, rngs = sampling_timesteps(**settings.trajectory), generators(seeds)
    noise = noise_like(latents, rngs)
    noised = noise if start == 0 else Diffusion().diffuse(latents, noise, None, timesteps[start])
    denoise = guide(
        pipe.transformer,
        labels,
        null_class=pipe.num_classes,
        **settings.guidance,
        guidance_channels=pipe.config.guidance_channels,
        mask_noise=mask_noise(seeds, pipe.transformer.num_tokens),
    )
    order = range(start, len(timesteps))
    *_, last = sample(denoise, noised, generators=rngs, **settings.trajectory, order=order)
    return last.x_t


def generate(
    config: DecoderConfig, pipe: MDTPipeline, data: Latents, num_images: int, folder: Path, device: torch.device
) -> Generated:
    """Draw the batches that `folder` lacks, a file each, and read them all.

    Args:
        data: latents of images, the first `num_images` of which are made round trips of.

    Raises:
        ValueError: the model draws by a student, or what lies in the folder was drawn by another one or otherwise.
    """
    settings = pipe.sampling_defaults
    if settings.distilled:
        raise ValueError(f"{config.model} draws by a student unless told otherwise: name a model that draws by itself")
    plan = list(plan_batches(config, num_images, pipe.num_classes, sampling_timesteps(**settings.trajectory)))
    model = weights_fingerprint(pipe, lora=False), settings.in_words
    latents: dict[str, list[Tensor]] = {"samples": [], "round_trips": []}
    with tqdm(total=sum(len(batch.places) for batch in plan), desc="draw latents", unit="image") as bar:
        for batch in plan:
            path = folder / f"{batch.kind}-{batch.first_seed}.safetensors"
            made_of = fingerprint(model, data.made_of, [batch.kind, batch.first_seed, batch.start], batch.places)
            if not path.exists():
                tensors, metadata = {"latents": _draw(batch, pipe, data, device)}, {"made_of": made_of}
                write_whole(path, partial(save_file, tensors, metadata=metadata))
            with open_tensors(path, cure=f"delete {folder} or choose another --output-dir") as file:
                if (file.metadata() or {}).get("made_of") != made_of:
                    raise ValueError("it is of another model or other settings")
                latents[batch.kind].append(file.get_tensor("latents"))
            bar.update(len(batch.places))
    samples, round_trips = (torch.cat([torch.empty(0, *data.shape), *parts]) for parts in latents.values())
    none = torch.empty(0, dtype=torch.int64)
    labels, indices = (torch.cat([none, *(b.places for b in plan if b.kind == kind)]) for kind in latents)
    return Generated(samples.to(device), labels.to(device), round_trips.to(device), indices)


def _draw(batch: Batch, pipe: MDTPipeline, data: Latents, device: torch.device) -> Tensor:
    """The latents of a batch, on the CPU."""
    if batch.kind == "samples":
        latents, labels = torch.empty(len(batch.places), *data.shape, device=device), batch.places.to(device)
    else:
        latents, _, labels = data.batch(batch.places.tolist())
        names = [data.id2label.get(label) for label in labels.tolist()]
        latents, labels = latents.to(device), labels_of(pipe, names).to(device)
    return sample_from(pipe, latents, labels, batch.first_seed, batch.start).cpu()
