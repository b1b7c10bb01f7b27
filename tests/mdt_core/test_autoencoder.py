"""Pixels <-> latents: blocks, scales, the linear start of our autoencoder and the linear preview."""

import json
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from mdt_core.autoencoder import decode, downscale, encode, fit_preview, posterior, preview
from mdt_core.runs import Run
from train import avatars
from train.autoencoder import __main__ as autoencoder
from train.autoencoder.model import small_autoencoder, start_linear, statistics_loss


@pytest.fixture
def pictures() -> torch.Tensor:
    """Smooth random pictures, (16, 3, 32, 32) in [-1, 1]."""
    coarse = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def test_our_autoencoder_starts_as_principal_components(pictures):
    """The linear start is PCA of the blocks: catches a lost sign, mean or scale. All 48 components lose nothing."""
    torch.manual_seed(0)
    errors = []
    for channels in (4, 8, 48):
        vae = small_autoencoder(96, 96, latent_channels=channels, block=4)
        start_linear(vae, pictures, block=4)
        errors.append((decode(vae, encode(vae, pictures)) - pictures).square().mean().item())
        if channels == 8:
            latents = encode(vae, pictures)
            torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(8), rtol=0, atol=0.02)
            blocks = pictures.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
            variances = torch.linalg.svdvals(blocks - blocks.mean(0)).square() / blocks.numel()
            assert errors[-1] == pytest.approx(variances[8:].sum().item(), rel=0.1)
    assert errors[0] > errors[1] > errors[2]


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


def test_statistics_are_zero_at_mean_0_and_std_1():
    latents = torch.randn(64, 2, 32, 32)
    assert statistics_loss(latents) < 1e-3 < statistics_loss(2 * latents)


@pytest.mark.parametrize(("block", "stages"), [(4, 1), (2, 2), (1, 3)])
def test_the_first_weights_are_a_good_linear_autoencoder(block, stages):
    """Of smooth pictures, cells of 4 x 4 pixels: however many stages they take, and of unit variance for the model."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(32, 3, 3, 3, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(corners, size=(32, 32), mode="bicubic", align_corners=True).clamp(-1, 1)
    vae = autoencoder.small_autoencoder(32, 32, 8, block, (1,) * stages, (1,) * stages)
    before = autoencoder.psnr(vae, smooth)
    autoencoder.start_linear(vae, smooth, block)
    assert before < 10 and autoencoder.psnr(vae, smooth) > 30
    latents = encode(vae, smooth)
    assert latents.shape == (32, 8, 8, 8)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(8), rtol=0.01, atol=0)


def test_encoder_and_decoder_have_as_many_stages():
    with pytest.raises(ValueError, match="an encoder of 2 stages needs a decoder of as many"):
        autoencoder.small_autoencoder(8, 8, 4, 2, (1, 1), (1,))
    with pytest.raises(ValueError, match="every stage needs a residual block"):
        autoencoder.small_autoencoder(8, 8, 4, 2, (1, 0), (1, 1))


@pytest.mark.parametrize("stages", ["", "--block 2 --encoder-blocks 1 1 --decoder-blocks 1 2"])
def test_training_goes_through_to_balanced_channels(pictures, tmp_path, monkeypatch, stages):
    """Catches averages that carry a graph and cannot be scaled, and scales that the decoder does not undo."""
    pixels = ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()
    names = tuple(f"class {label}" for label in range(40))  # more than the avatars have
    split = avatars.Split(pixels, 39 - np.arange(16) % 3, np.arange(16), names)
    monkeypatch.setattr(autoencoder, "load", lambda folder, split_name: split)
    sizes = "--steps 3 --batch-size 4 --encoder-width 8 --decoder-width 8 --critic-from 0.3 --log-every 1"
    monkeypatch.setattr(sys, "argv", f"autoencoder nowhere --out {tmp_path} {sizes} {stages}".split())
    autoencoder.main()
    vae, rows = AutoencoderTiny.from_pretrained(tmp_path), Run(tmp_path).metrics
    assert "block_out_channels" not in json.loads((tmp_path / "config.json").read_text())  # of which it would warn
    x = autoencoder.pixels_of(pixels, torch.device("cpu"))
    assert encode(vae, x).std(dim=(0, 2, 3)).square().mean().item() == pytest.approx(1, rel=0.01)
    assert autoencoder.psnr(vae, x) == pytest.approx(rows[-1]["psnr"], abs=0.01)
    assert ["critic_real" in row for row in rows] == [False, True, True]
