"""A walk from one picture to another: what every frame starts from and is drawn of.

    latents, labels = walk(pipe, 24, seeds=(0, 7), class_labels=("dylan", "sprouts"))
    frames = pipe(labels, latents=latents, seeds=0).images

The noise turns from one seed's to the other's on a sphere (Shoemake, 1985: a straight line leads through noise that is
too weak), and one class's embedding becomes the other's. With a sampler that draws no noise of its own, "dpm++" or
"ddim", the walk begins and ends with the very pictures of the two seeds and classes.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdt_core.pipeline.labels import MAX_MIXED, ClassLabel, ClassMix, class_weights
from mdt_core.samplers import generators, initial_latents

if TYPE_CHECKING:
    from mdt_core.pipeline.pipeline import MDTPipeline

Mix = dict[int | None, float]  # class index, or None for no class -> weight


def walk(
    pipe: "MDTPipeline",
    frames: int,
    seeds: tuple[int, int],
    class_labels: tuple[ClassLabel | ClassMix, ClassLabel | ClassMix],
) -> tuple[Tensor, list[Mix]]:
    """The latents (frames, C, h, w) and the class labels of a walk, evenly spaced.

    Args:
        pipe: whose latents and classes they are.
        frames: at least 2, the first and the last among them.
        seeds: where it begins and where it ends; the same twice to stay with one noise.
        class_labels: likewise; each a class, None, or a mix.

    Raises:
        ValueError: fewer than two frames, a seed that is none, a label that the model has not, or more classes at
            both ends together than a picture can mix.
    """
    if frames < 2:
        raise ValueError(f"a walk has at least 2 frames, not {frames}")
    start, end = initial_latents(generators(seeds), pipe.latent_shape)
    here, there = (
        {None if index == pipe.num_classes else index: weight for index, weight in mix.items()}
        for mix in (class_weights(label, pipe.id2label) for label in class_labels)
    )
    if (count := len({*here, *there})) > MAX_MIXED:
        raise ValueError(f"the ends of a walk name {count} classes, and at most {MAX_MIXED} can be mixed")
    shares = [i / (frames - 1) for i in range(frames)]
    return torch.stack([slerp(start, end, share) for share in shares]), [between(here, there, s) for s in shares]


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """So much of the way from `start` to `end`, 0 to 1, on the great circle through both; of any shape."""
    cosine = torch.cosine_similarity(start.double().flatten(), end.double().flatten(), dim=0).clamp(-1, 1)
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-4:  # one direction, or two opposite ones: no circle
        return start.lerp(end, share)
    part = [math.sin(each * angle) / math.sin(angle) for each in (1 - share, share)]
    return part[0] * start + part[1] * end


def between(start: Mix, end: Mix, share: float) -> Mix:
    """The mix that has so much of `end`, 0 to 1, and the rest of `start`."""
    mixed = dict.fromkeys([*start, *end], 0.0)
    for mix, part in ((start, 1 - share), (end, share)):
        for index, weight in mix.items():
            mixed[index] += part * weight / sum(mix.values())
    return mixed
