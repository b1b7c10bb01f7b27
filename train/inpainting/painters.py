"""The methods that `train.inpainting` measures: pictures and masks -> repainted pictures.

All pictures of a batch share a mask and are painted together, each as `MDTPipeline.inpaint` paints it alone.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mdt_core import autoencoder
from mdt_core.guidance import guide
from mdt_core.inpainting import Method, find_method, inpaint, starting_latents
from mdt_core.masking import mask_noise
from mdt_core.pipeline.canvas import Canvas, fit_canvas
from mdt_core.samplers import SAMPLERS, generators
from train.evaluate.sources import ImageSet
from train.inpainting.masks import batches

WITHOUT_MODEL = ("mean colour", "telea", "autoencoder")


def _window(text: str) -> tuple[float, float]:
    first, last = map(float, text.split("-"))
    return first, last


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


# Field of a Method -> how its value is read.
CONVERT = {"sampler": str, "first_timestep": int, "repeats": int, "jump": int, "window": _window, "handover": int}
CONVERT |= {"ring": float, "predicted": _yes}


@dataclass(frozen=True)
class Painting:
    """All that decides the results of a method on a kind of mask; kept beside them."""

    weights: str  # fingerprint of the pipeline's weights
    pictures: str  # fingerprint of the originals
    mask: str  # one of masks.MASKS
    method: Method | str  # or one of WITHOUT_MODEL
    num_inference_steps: int  # 0 without a model
    guidance_scale: float
    guidance_power: float
    guidance_kind: str
    grow: int
    feather: int


# ---- methods


def parse_method(text: str) -> Method | str:
    """A method's name, one without a model, or a variant: `mdt:handover=500,repeats=2,window=0.5-0.9,sampler=ddim`."""
    if text in WITHOUT_MODEL:
        return text
    name, _, changes = text.partition(":")
    method = find_method(name)
    for change in filter(None, changes.split(",")):
        word, _, value = change.partition("=")
        if word not in CONVERT:
            raise ValueError(f"{text}: a method has {', '.join(CONVERT)}, but no {word}")
        try:
            method = replace(method, **{word: CONVERT[word](value)})
        except ValueError:
            raise ValueError(f"{text}: {value!r} is no {word}") from None
    return method


def steps_within(calls: int, method: Method) -> int:
    """The most steps of a trajectory that take no more than `calls` model calls."""
    most = min(calls, SAMPLERS[method.sampler].max_steps)
    return max((n for n in range(1, most + 1) if method.calls(n) <= calls), default=1)


# ---- pictures and masks -> results


@torch.no_grad()
def paint(pipe, painting: Painting, originals: ImageSet, masks: np.ndarray, batch_size: int) -> np.ndarray:
    """Repaint each picture under its mask, (N, S, S, 3) uint8; picture i has the seed i."""
    results, cell = np.empty_like(originals.images), autoencoder.downscale(pipe.vae)
    for batch in batches(masks, batch_size):
        canvases = [
            fit_canvas(
                picture, masks[batch.start], pipe.image_size, cell=cell, grow=painting.grow, feather=painting.feather
            )
            for picture in originals.images[batch]
        ]
        if isinstance(painting.method, str):
            results[batch] = paint_without_model(pipe, painting.method, canvases)
        else:
            seeds = range(batch.start, batch.stop)
            results[batch] = paint_with_model(pipe, painting, canvases, originals.labels[batch], seeds)
    return results


def paint_without_model(pipe, name: str, canvases: list[Canvas]) -> np.ndarray:
    """Pictures that share one mask, repainted by one of WITHOUT_MODEL: (N, S, S, 3) uint8."""
    if name == "autoencoder":
        return paste(pipe, canvases, autoencoder.encode(pipe.vae, stack_pixels(pipe, canvases)))
    pictures, hole = np.stack([canvas.picture for canvas in canvases]), canvases[0].hole().numpy()
    if name == "mean colour":
        mean = pictures[:, ~hole].mean(1).round().astype(np.uint8)  # (N, 3)
        return np.where(hole[..., None], mean[:, None, None], pictures)
    import cv2

    return np.stack([cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA) for picture in pictures])


def paint_with_model(pipe, painting: Painting, canvases: list[Canvas], labels: np.ndarray, seeds: range) -> np.ndarray:
    """Pictures that share one mask, repainted in one batch, each as `pipe.inpaint` does it alone.

    Args:
        pipe: an `mdt_core.MDTPipeline`.
        painting: the settings.
        canvases: one per picture.
        labels: (N,), their classes.
        seeds: one per picture.

    Returns:
        (N, S, S, 3) uint8.
    """
    rngs, hardness = generators(seeds), canvases[0].hardness(*pipe.latent_shape[1:])
    known, content = starting_latents(
        "fill",
        lambda pixels: autoencoder.encode(pipe.vae, pixels),
        stack_pixels(pipe, canvases),
        canvases[0].hole().to(pipe.device),
        hardness,
        rngs,
    )
    denoise = guide(
        pipe.transformer,
        torch.as_tensor(labels, device=pipe.device),
        null_class=pipe.num_classes,
        guidance_scale=painting.guidance_scale,
        guidance_power=painting.guidance_power,
        guidance_kind=painting.guidance_kind,
        guidance_channels=pipe.config.guidance_channels,
        mask_noise=mask_noise(seeds, pipe.transformer.num_tokens),
    )
    *_, last = inpaint(
        denoise,
        known,
        hardness,
        generators=rngs,
        method=painting.method,
        num_inference_steps=painting.num_inference_steps,
        patch_size=pipe.transformer.config.patch_size,
        content=content,
    )
    return paste(pipe, canvases, last.x_t)


def stack_pixels(pipe, canvases: list[Canvas]) -> Tensor:
    """What the model sees of the pictures, (N, 3, S, S) in [-1, 1]."""
    return torch.cat([canvas.pixels() for canvas in canvases]).to(pipe.device)


def paste(pipe, canvases: list[Canvas], latents: Tensor) -> np.ndarray:
    """Latents (N, C, h, w) -> the pictures with their holes filled from them, (N, S, S, 3) uint8."""
    decoded = [autoencoder.decode(pipe.vae, z)[0] for z in latents.split(1)]  # one at a time, as the pipeline does
    return np.stack([canvas.paste(pixels) for canvas, pixels in zip(canvases, decoded, strict=True)])
