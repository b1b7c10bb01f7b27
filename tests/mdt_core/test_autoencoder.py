"""Pixels <-> latents: blocks, scales, and the linear preview."""

import pytest
import torch
from diffusers import AutoencoderKL

from mdt_core.autoencoder import decode, downscale, encode, fit_preview, posterior, preview
from train.autoencoder.model import small_autoencoder


@pytest.fixture
def pictures() -> torch.Tensor:
    """Smooth random pictures, (16, 3, 32, 32) in [-1, 1]."""
    coarse = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(-1, 1)


def test_latents_are_as_many_times_smaller_as_said(pictures):
    vae = small_autoencoder(16, 16, latent_channels=8, block=4)
    assert downscale(vae) == 4
    assert encode(vae, pictures).shape == (16, 8, 8, 8)
    assert decode(vae, torch.zeros(2, 8, 8, 8)).shape == (2, 3, 32, 32)


@torch.no_grad()
def test_stable_diffusions_kind_is_scaled_on_the_way_in_and_unscaled_on_the_way_out(pictures):
    """Catches a scaling factor applied twice, left out, or to the mean alone."""
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=2,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    assert downscale(vae) == 2
    raw = vae.encode(pictures).latent_dist
    mean, std = posterior(vae, pictures)
    torch.testing.assert_close(mean, (raw.mean - 0.25) * 0.5)
    torch.testing.assert_close(std, raw.std * 0.5)
    noise = torch.randn_like(mean)
    torch.testing.assert_close(encode(vae, pictures, noise), mean + std * noise)
    torch.testing.assert_close(decode(vae, mean), vae.decode(raw.mean).sample)


@pytest.mark.parametrize("block", [1, 2])
def test_the_preview_finds_a_linear_decoder(block):
    """Catches swapped pixels inside a cell and a lost constant."""
    truth = torch.randn(3 * block**2, 5, generator=torch.Generator().manual_seed(1)) * 0.1
    latents = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    pixels = preview(latents, truth)
    assert pixels.abs().max() < 1  # nothing clamped
    torch.testing.assert_close(fit_preview(latents, pixels, block), truth, rtol=0, atol=1e-5)
