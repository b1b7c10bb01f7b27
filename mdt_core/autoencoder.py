"""Pixels <-> latents: the one place that knows an autoencoder's scale, shift and pixel blocks.

Any diffusers `AutoencoderKL` fits. Stable Diffusion's takes RGB and shrinks it 8 times; ours takes *pixel
blocks*: an autoencoder with 3 r^2 input channels sees r x r pixels as the channels of one cell, so that all
of its convolutions run at latent resolution. The diffusion model sees latents of about unit variance:

    latents = (z - mean) * scale,    mean and scale from the autoencoder's own configuration.

Letters: N batch, C latent channels, (h, w) latent cells, (H, W) pixels, f = H / h the downscaling factor.
"""

import math

import torch
from einops import rearrange


def pixel_block(vae) -> int:
    """Side r of the pixel blocks that are the autoencoder's input channels; 1 for RGB."""
    return math.isqrt(vae.config.in_channels // 3)


def downscale(vae) -> int:
    """Pixels along one side of a latent cell (f): 8 for Stable Diffusion's autoencoder."""
    return pixel_block(vae) * 2 ** (len(vae.config.block_out_channels) - 1)


def moments(vae, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels -> the posterior's mean and log variance.

    Args:
        vae: a diffusers `AutoencoderKL`.
        pixels: (N, 3, H, W) in [-1, 1], H and W multiples of `downscale(vae)`.

    Returns:
        (N, 2C, h, w), in the autoencoder's own units: what `train.latents` stores.
    """
    r = pixel_block(vae)
    blocks = rearrange(pixels, "n c (h p) (w q) -> n (c p q) h w", p=r, q=r)
    return vae.encode(blocks).latent_dist.parameters


def sample_moments(vae, moments: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Moments -> latents: the mean, or with `noise` (N, C, h, w) a draw from the posterior."""
    z, log_variance = moments.chunk(2, dim=1)  # (N, C, h, w)
    if noise is not None:
        z = z + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
    mean, scale = _mean_and_scale(vae, z)
    return (z - mean) * scale


def encode(vae, pixels: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Pixels (N, 3, H, W) in [-1, 1] -> latents (N, C, h, w) of about unit variance."""
    return sample_moments(vae, moments(vae, pixels), noise)


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) -> pixels (N, 3, H, W), about [-1, 1]."""
    r = pixel_block(vae)
    mean, scale = _mean_and_scale(vae, latents)
    blocks = vae.decode(latents / scale + mean, return_dict=False)[0]
    return rearrange(blocks, "n (c p q) h w -> n c (h p) (w q)", p=r, q=r)


def _mean_and_scale(vae, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, C, 1, 1) each. Per channel where the configuration has `latents_mean` and `latents_std`."""
    config, channels = vae.config, z.shape[1]
    mean = config.latents_mean or [config.shift_factor or 0.0] * channels
    std = config.latents_std or [1.0 / config.scaling_factor] * channels
    mean, std = (torch.tensor(v, dtype=z.dtype, device=z.device).view(1, channels, 1, 1) for v in (mean, std))
    return mean, 1.0 / std


# --- a cheap look at latents -------------------------------------------------------------------------------


def fit_preview(latents: torch.Tensor, pixels: torch.Tensor, block: int) -> torch.Tensor:
    """Fit the linear map from one latent cell to `block` x `block` pixels by least squares.

    Args:
        latents: (N, C, h, w).
        pixels: (N, 3, H, W), the same pictures.
        block: preview pixels along a cell's side; 1 gives previews of h x w pixels.

    Returns:
        (3 block^2, C + 1): the weights and, in the last column, the constant.
    """
    n, _, h, w = latents.shape
    small = torch.nn.functional.interpolate(pixels.double(), (h * block, w * block), mode="area")
    targets = rearrange(small, "n c (h p) (w q) -> (n h w) (c p q)", p=block, q=block)
    cells = rearrange(latents.double(), "n c h w -> (n h w) c")
    cells = torch.cat([cells, torch.ones(n * h * w, 1, dtype=torch.float64)], dim=1)
    return torch.linalg.lstsq(cells, targets).solution.T.float()


def preview(latents: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) -> small pixels (N, 3, h block, w block) in [-1, 1], by the fitted map."""
    weights = weights.to(latents)
    block = math.isqrt(len(weights) // 3)
    cells = torch.einsum("nchw,oc->nohw", latents, weights[:, :-1]) + weights[:, -1].view(1, -1, 1, 1)
    return rearrange(cells, "n (c p q) h w -> n c (h p) (w q)", p=block, q=block).clamp(-1, 1)
