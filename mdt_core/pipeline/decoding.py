"""Latents <-> pixels in float32, whatever an autoencoder runs in and wherever it lies; one image at a time.

An autoencoder's convolutions round by the size of the batch: alone, a picture is the same whatever it is made beside.

Letters: N images, C latent channels, (h, w) latent cells, S side of the model's pictures in pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_core.autoencoder import decode, encode, fit_preview, pixel_block, preview
from mdt_core.samplers import generators, initial_latents


@torch.no_grad()
def to_latents(vae, pixels: Tensor) -> Tensor:
    """Pixels (1, 3, S, S) in [-1, 1] -> latents (1, C, h, w) on the autoencoder's device: the posterior's mean."""
    return check_finite(encode(vae, pixels.to(vae.device, vae.dtype)).float(), "the autoencoder's latents")


@torch.no_grad()
def to_pixels(vae, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) -> pixels (N, 3, S, S), about [-1, 1], on the CPU."""
    pixels = torch.cat([decode(vae, z.to(vae.device, vae.dtype)) for z in latents.split(1)]).float().cpu()
    return check_finite(pixels, "the autoencoder's pixels")


def check_finite(numbers: Tensor, what: str) -> Tensor:
    """The numbers as they are. ValueError where one is NaN or infinite: it would become a black picture."""
    if not numbers.isfinite().all():
        raise ValueError(f"{what} are not finite: its weights are damaged, or its numbers too large for their type")
    return numbers


def to_small_pixels(preview_weights: Tensor, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) -> (N, 3, h b, w b) in [-1, 1] on the CPU, by the linear map of `preview_weights`."""
    return torch.cat([preview(z, preview_weights) for z in latents.float().cpu().split(1)])


def enlarge(pixels: Tensor, side: int) -> Tensor:
    """Pixels (N, 3, H, W) -> (N, 3, side, side), bicubic."""
    return F.interpolate(pixels, (side, side), mode="bicubic")


def preview_weights(vae, latents: Tensor) -> list[list[float]]:
    """(3 b^2, C + 1), the linear map that comes nearest to an autoencoder on these latents, to four places."""
    weights = fit_preview(latents.float().cpu(), to_pixels(vae, latents), pixel_block(vae))
    return [[round(weight, 4) for weight in row] for row in weights.tolist()]


def smooth_latents(shape: tuple[int, int, int]) -> Tensor:
    """Eight random latents of a shape (C, h, w), as smooth as those of pictures, to fit a preview to."""
    coarse = initial_latents(generators(range(8)), (shape[0], 8, 8))
    return F.interpolate(coarse, shape[1:], mode="bicubic")
