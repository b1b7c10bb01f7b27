"""A model's guided trajectories, drawn once and kept: where a student's few steps are to lead."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mdt_core import MDTPipeline
from mdt_core.fingerprint import fingerprint
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import write_whole
from mdt_core.samplers import generators, initial_latents, sampling_timesteps
from train.evaluate.samples import weights_fingerprint
from train.files import open_tensors

BATCH = 32  # trajectories drawn together, and kept in a file
FIRST_SEED = 5_000_000


@dataclass(frozen=True)
class Trajectories:
    """N trajectories at the S timesteps of a student, and clean."""

    states: Tensor  # (N, S + 1, C, h, w)
    labels: Tensor  # (N,)


def draw_trajectories(
    pipe: MDTPipeline, teacher: SamplingSettings, student: SamplingSettings, num_images: int, folder: Path
) -> Trajectories:
    """Draw the trajectories that `folder` lacks, and read them all; the classes in turn.

    Args:
        pipe: the model.
        teacher: how it draws. Its timesteps hold the student's.
        student: how the student will.
        num_images: trajectories, rounded up to whole files of `BATCH`.
        folder: for the files.

    Raises:
        ValueError: the student's steps do not fall on the teacher's, or the folder holds trajectories of others.
    """
    walked, asked = (sampling_timesteps(**each.trajectory) for each in (teacher, student))
    if walked[0] != asked[0] or not set(asked) <= set(walked):
        raise ValueError(
            f"the student's timesteps, {asked}, are not among the teacher's, {walked}: "
            "let both begin at one timestep, and the teacher take twice or three times as many steps"
        )
    made_of = fingerprint(weights_fingerprint(pipe, lora=False), teacher.in_words, asked)
    drawn = []
    for first in tqdm(range(0, num_images, BATCH), desc="draw trajectories", unit=f"{BATCH} images"):
        path = folder / f"{first:06d}.safetensors"
        if not path.exists():
            numbers, classes = range(first, first + BATCH), pipe.num_classes
            labels = [number % classes if classes else None for number in numbers]
            states = _walk(pipe, teacher, asked, labels, FIRST_SEED + first).half()
            tensors = {"states": states, "labels": torch.tensor([label or 0 for label in labels])}
            write_whole(path, partial(save_file, tensors, metadata={"made_of": made_of}))
        with open_tensors(path, cure=f"delete {folder} or choose another --output-dir") as file:
            if (file.metadata() or {}).get("made_of") != made_of:
                raise ValueError("it was drawn by another model or otherwise")
            drawn.append([file.get_tensor(name) for name in ("states", "labels")])
    states, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Trajectories(states, labels)


def _walk(
    pipe: MDTPipeline, teacher: SamplingSettings, timesteps: list[int], labels: list[int | None], first_seed: int
) -> Tensor:
    """(N, S + 1, C, h, w): where the teacher is at each of these timesteps, and at the end; on the CPU."""
    seeds = range(first_seed, first_seed + len(labels))
    states = [initial_latents(generators(seeds), pipe.latent_shape)]
    steps = pipe.stream(labels, seeds=list(seeds), output_type="latent", **teacher.arguments)
    levels = [*sampling_timesteps(**teacher.trajectory)[1:], None]  # of the state after each step
    states += [step.x_t.cpu() for step, level in zip(steps, levels, strict=True) if level is None or level in timesteps]
    return torch.stack(states, dim=1)
