"""The small autoencoder: its linear start, and a training that an interruption leaves no trace in."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from mdt_core.autoencoder import decode, encode
from mdt_core.runs import Run
from mdt_core.weights.hub import open_autoencoder
from tests.helpers.forked import start
from train import avatars
from train.autoencoder.__main__ import main
from train.autoencoder.config import AUTOENCODERS, DECODERS
from train.autoencoder.model import (
    pixels_of,
    psnr,
    small_autoencoder,
    start_linear,
    statistics_loss,
)
from train.autoencoder.state import State
from train.settings import find_recipe

ROOT = Path(__file__).parents[2]
SETTINGS = ["batch_size=4", "encoder_width=8", "decoder_width=8", "critic_from=0.3", "log_every=1", "save_every=2"]


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


def test_statistics_are_zero_at_mean_0_and_std_1():
    latents = torch.randn(64, 2, 32, 32)
    assert statistics_loss(latents) < 1e-3 < statistics_loss(2 * latents)


@pytest.mark.parametrize(("block", "stages"), [(4, 1), (2, 2), (1, 3)])
def test_the_first_weights_are_a_good_linear_autoencoder(block, stages):
    """Of smooth pictures, cells of 4 x 4 pixels: however many stages they take, and of unit variance for the model."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(32, 3, 3, 3, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(corners, size=(32, 32), mode="bicubic", align_corners=True).clamp(-1, 1)
    vae = small_autoencoder(32, 32, 8, block, (1,) * stages, (1,) * stages)
    before = psnr(vae, smooth)
    start_linear(vae, smooth, block)
    assert before < 10 and psnr(vae, smooth) > 30
    latents = encode(vae, smooth)
    assert latents.shape == (32, 8, 8, 8)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(8), rtol=0.01, atol=0)


def test_encoder_and_decoder_have_as_many_stages():
    with pytest.raises(ValueError, match="an encoder of 2 stages needs a decoder of as many"):
        small_autoencoder(8, 8, 4, 2, (1, 1), (1,))
    with pytest.raises(ValueError, match="every stage needs a residual block"):
        small_autoencoder(8, 8, 4, 2, (1, 0), (1, 1))


@pytest.fixture
def data(pictures, tmp_path) -> Path:
    """A drawn set of three classes, of 40 that there are: more than the avatars have."""
    pixels = ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()
    names = tuple(f"class {label}" for label in range(40))
    split = avatars.Split(pixels, 39 - np.arange(16) % 3, np.arange(16), names)
    for name in ("train", "validation"):
        avatars.save(tmp_path / "data", name, split)
    return tmp_path / "data"


def command(data: Path, run: Path, *settings: str) -> list[str]:
    return ["avatars", "--output-dir", str(run), "--set", f"data={data}", *SETTINGS, *settings]


@pytest.mark.parametrize("stages", [(), ("block=2", "encoder_blocks=(1, 1)", "decoder_blocks=(1, 2)")])
def test_training_goes_through_to_balanced_channels(data, pictures, tmp_path, stages):
    """Catches averages that carry a graph and cannot be scaled, and scales that the decoder does not undo."""
    run = Run(tmp_path / "run")
    main(command(data, run.folder, "steps=3", *stages))
    vae, rows = open_autoencoder(run.folder), run.metrics
    assert "block_out_channels" not in json.loads((run.folder / "vae" / "config.json").read_text())  # diffusers warns
    x = pixels_of(avatars.load(data, "train").images, torch.device("cpu"))
    assert encode(vae, x).std(dim=(0, 2, 3)).square().mean().item() == pytest.approx(1, rel=0.01)
    assert psnr(vae, x) == pytest.approx(rows[-1]["psnr"], abs=0.01)
    assert ["critic_real" in row for row in rows] == [False, True, True]
    assert run.config["encoder_width"] == 8 and run.config["steps"] == 3
    assert list(run.checkpoints) == [2, 3]


def weights(run: Run) -> dict[str, bytes]:
    """All tensors of the last checkpoint and of the result, by file and name."""
    files = [*list(run.checkpoints.values())[-1].rglob("*.safetensors"), *(run.folder / "vae").glob("*.safetensors")]
    assert len(files) == 6
    return {
        f"{file.relative_to(run.folder)} {name}": tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }


@pytest.mark.forked
def test_a_killed_training_ends_as_one_that_never_was(data, tmp_path):
    """Killed without warning, then asked to stop, which saves first. Catches weights, averages, a critic or moments
    that are not restored to the bit, or lie in memory otherwise than before; steps drawn anew; and steps lost.
    """
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    settings = ["steps=60", "critic_from=0.2", "save_every=5"]
    main(command(data, whole.folder, *settings))
    reached = []
    for enough, number in ((15, signal.SIGKILL), (30, signal.SIGTERM)):
        training = start(main, command(data, killed.folder, *settings))
        while training.process.is_alive() and max(killed.checkpoints, default=0) < enough:
            time.sleep(0.01)
        os.kill(training.process.pid, number)
        done = training.wait(60)
        assert done.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0), done.stderr
        reached.append(max(killed.checkpoints))
    assert reached[0] < reached[1] < 60 and not (killed.folder / "vae").exists()
    assert reached[1] == killed.metrics[-1]["step"]  # SIGTERM lost none
    main(command(data, killed.folder, *settings))
    assert weights(killed) == weights(whole)
    figures = [[{**row, "seconds": 0} for row in run.metrics] for run in (whole, killed)]
    assert figures[0] == figures[1] and len(figures[0]) == 60


def test_what_lies_channels_last_in_memory_does_so_again(tmp_path):
    """Catches moments that are read back in another order: the same numbers, but other code sums them."""
    torch.manual_seed(0)
    config, device = find_recipe(AUTOENCODERS, "avatars", []), torch.device("cpu")
    states = []
    for _ in range(2):
        vae = small_autoencoder(8, 8, latent_channels=4, block=4)
        states.append(State.start(vae, vae.parameters(), (0.9, 0.99), config, 2, device))
    trained, fresh = states
    decode(trained.vae, encode(trained.vae, torch.rand(2, 3, 16, 16))).square().mean().backward()
    trained.apply_gradients(1e-3, 1.0)
    trained.save(tmp_path)
    fresh.load(tmp_path)
    for weight, source in zip(fresh.vae.parameters(), trained.vae.parameters(), strict=True):
        assert torch.equal(weight, source) and weight.stride() == source.stride()
        moments, of_source = fresh.optimizer.state[weight], trained.optimizer.state[source]
        for name in of_source:
            assert torch.equal(moments[name], of_source[name]) and moments[name].stride() == of_source[name].stride()


def test_the_same_command_writes_the_same_result_again(data, tmp_path):
    """Catches a finished run that is scaled twice, and a killed one whose last steps are lost with its result."""
    run = Run(tmp_path / "run")
    main(command(data, run.folder, "steps=2"))
    before = weights(run)
    for file in (run.folder / "vae").iterdir():
        file.unlink()
    main(command(data, run.folder, "steps=2"))
    assert weights(run) == before


@pytest.mark.parametrize(
    "settings, words",
    [
        (["latent_channels=8"], "holds another run, latent_channels 4 there and 8 here"),
        (["steps=1"], "has taken 2 steps, 1 are asked for"),
        (["critic_from=2"], "critic_from must be 0 to 1, not 2"),
        (["latent_noise=0.1"], "latent_noise is (0.0, 0.15) here, 0.1 is of another kind"),
        (["minutes=0"], "minutes must be above 0, not 0"),
        (["data=nowhere"], "run `python -m train.avatars nowhere` first"),
    ],
)
def test_a_wrong_setting_ends_with_one_line_and_leaves_the_run_as_it_is(data, tmp_path, capsys, settings, words):
    run = Run(tmp_path / "run")
    main(command(data, run.folder, "steps=2"))
    before = run.config, weights(run)
    with pytest.raises(SystemExit) as end:
        main(command(data, run.folder, "steps=2", *settings))
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and words in said
    assert (run.config, weights(run)) == before


def test_a_checkpoint_that_cannot_be_read_is_told_of_in_one_line(data, tmp_path, capsys):
    run = Run(tmp_path / "run")
    main(command(data, run.folder, "steps=2"))
    (run.checkpoints[2] / "critic.safetensors").write_bytes(b"half")
    with pytest.raises(SystemExit) as end:
        main(command(data, run.folder, "steps=4"))
    assert end.value.code == 1 and "step_00000002 cannot be resumed" in capsys.readouterr().err.splitlines()[-1]


def test_the_recipes_that_say_as_shipped_are_what_was_run():
    """Catches rows that make another autoencoder than the one we ship, by its file."""
    shipped = AutoencoderTiny.load_config(ROOT / "assets" / "models" / "avatars" / "vae")
    recipe = AUTOENCODERS["avatars-128"]
    assert shipped["in_channels"] == 3 * recipe.block**2 and shipped["latent_channels"] == recipe.latent_channels
    for part in ("encoder", "decoder"):
        width, blocks = getattr(recipe, f"{part}_width"), getattr(recipe, f"{part}_blocks")
        assert shipped[f"num_{part}_blocks"] == list(blocks)
        assert shipped[f"{part}_block_out_channels"] == [width] * len(blocks)
    for tuning in (DECODERS[f"avatars-128{stage}"] for stage in ("", "-polish", "-polish-2")):
        assert tuning.width is tuning.blocks is None  # the decoder kept its size
