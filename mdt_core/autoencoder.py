"""Pixels <-> latents: the one place that knows an autoencoder's scale, shift and pixel blocks.

Two of diffusers' classes fit. `AutoencoderKL` is Stable Diffusion's: RGB in, 8 times smaller latents, a
Gaussian posterior. `AutoencoderTiny` is ours: deterministic, small enough to be trained on a laptop. Ours takes
*pixel blocks*: an autoencoder with 3 r^2 input channels sees r x r pixels as the channels of one cell, so that
all of its convolutions run at latent resolution. The diffusion model sees latents of about unit variance:

    latents = (z - shift_factor) * scaling_factor,    both from the autoencoder's configuration.

Letters: N batch, C latent channels, (h, w) latent cells, (H, W) pixels, f = H / h the downscaling factor.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class Posterior(NamedTuple):
    """An encoder's distribution of latents, scaled and shifted: mean and standard deviation, (N, C, h, w)."""

    mean: Tensor
    std: Tensor  # zero for a deterministic autoencoder


def pixel_block(vae) -> int:
    """Side r of the pixel blocks that are the autoencoder's input channels; 1 for RGB."""
    return math.isqrt(vae.config.in_channels // 3)


def downscale(vae) -> int:
    """Pixels along one side of a latent cell (f): 8 for Stable Diffusion's autoencoder."""
    return pixel_block(vae) * 2 ** (len(vae.config.block_out_channels) - 1)


def posterior(vae, pixels: Tensor) -> Posterior:
    """Pixels (N, 3, H, W) in [-1, 1], H and W multiples of `downscale(vae)` -> posterior of the latents."""
    r = pixel_block(vae)
    blocks = rearrange(pixels, "n c (h p) (w q) -> n (c p q) h w", p=r, q=r)
    encoded = vae.encode(blocks)
    if hasattr(encoded, "latent_dist"):
        z, std = encoded.latent_dist.mode(), encoded.latent_dist.std
    else:
        z, std = encoded.latents, torch.zeros_like(encoded.latents)
    return Posterior((z - _shift(vae)) * vae.config.scaling_factor, std * vae.config.scaling_factor)


def encode(vae, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
    """Pixels (N, 3, H, W) in [-1, 1] -> latents (N, C, h, w): the posterior's mean, or with `noise` a draw from it."""
    mean, std = posterior(vae, pixels)
    return mean if noise is None else mean + std * noise


def decode(vae, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) -> pixels (N, 3, H, W), about [-1, 1]."""
    r = pixel_block(vae)
    blocks = vae.decode(latents / vae.config.scaling_factor + _shift(vae), return_dict=False)[0]
    return rearrange(blocks, "n (c p q) h w -> n c (h p) (w q)", p=r, q=r)


def _shift(vae) -> float:
    return vae.config.shift_factor or 0.0


# --- a cheap look at latents -------------------------------------------------------------------------------


def fit_preview(latents: Tensor, pixels: Tensor, block: int) -> Tensor:
    """Fit the linear map from one latent cell to `block` x `block` pixels by least squares.

    Args:
        latents: (N, C, h, w).
        pixels: (N, 3, H, W), the same pictures.
        block: preview pixels along a cell's side; 1 gives previews of h x w pixels.

    Returns:
        (3 block^2, C + 1): the weights and, in the last column, the constant.
    """
    n, _, h, w = latents.shape
    small = F.interpolate(pixels.double(), (h * block, w * block), mode="area")
    targets = rearrange(small, "n c (h p) (w q) -> (n h w) (c p q)", p=block, q=block)
    cells = rearrange(latents.double(), "n c h w -> (n h w) c")
    cells = torch.cat([cells, torch.ones(n * h * w, 1, dtype=torch.float64)], dim=1)
    return torch.linalg.lstsq(cells, targets).solution.T.float()


def preview(latents: Tensor, weights: Tensor) -> Tensor:
    """Latents (N, C, h, w) -> small pixels (N, 3, h block, w block) in [-1, 1], by the fitted map."""
    weights = weights.to(latents)
    block = math.isqrt(len(weights) // 3)
    cells = torch.einsum("nchw,oc->nohw", latents, weights[:, :-1]) + weights[:, -1].view(1, -1, 1, 1)
    return rearrange(cells, "n (c p q) h w -> n c (h p) (w q)", p=block, q=block).clamp(-1, 1)
