"""The command `python -m train.evaluate`, from arguments to the last line of JSON."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_core.pipeline.labelled_grid import LEAST_GAP, MARGIN
from mdt_core.pipeline.settings import SamplingSettings
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from train.evaluate import features, samples
from train.evaluate.sources import ImageSet
from train.evaluate.sweep import parse_sweep


class Pipeline:
    """Stands in for the pipeline: class c is a grey of 60 c with noise that grows with the guidance scale."""

    num_classes, id2label, lora = 3, {0: "cat", 1: "dog", 2: "owl"}, None
    calls = 0

    def __init__(self) -> None:
        self.components = {}
        balanced = SamplingSettings(guidance_scale=2.5, num_inference_steps=12)
        self.sampling_presets = {"fast": balanced.but(num_inference_steps=5), "balanced": balanced}

    def __call__(self, class_labels, seeds, guidance_scale, **settings):
        Pipeline.calls += 1
        images = []
        for label, seed in zip(class_labels, seeds, strict=True):
            noise = np.random.default_rng(seed).normal(60 * label + 20, 5 * guidance_scale, (8, 8, 3))
            images.append(Image.fromarray(noise.clip(0, 255).astype(np.uint8)))
        return type("Output", (), {"images": images})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Run in an empty folder, with the stand-ins, and a set of real images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "load_pipeline", lambda model, device: Pipeline())
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    Pipeline.calls = 0
    real = Pipeline()([i % 3 for i in range(60)], range(1000, 1060), guidance_scale=1).images
    images = np.stack([np.asarray(image) for image in real])
    samples.write(tmp_path / "real.npz", ImageSet(images, np.arange(60) % 3, ("cat", "dog", "owl")))
    Pipeline.calls = 0
    return tmp_path


def call(capsys, command: str):
    """Run a command line; the parsed last line of its output."""
    run_command("train.evaluate", [*command.split(), "--device", "cpu"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


SAMPLE = "--model m --num-images 30 --batch-size 8 --out out.npz"


def test_samples_are_drawn_judged_and_reported(here, capsys):
    """Would catch figures that pass for FID, and counts or settings that are not the run's."""
    report = call(capsys, f"{SAMPLE} --reference real.npz --scale 1 --steps 7")
    assert report["num_images"] == 30
    assert report["num_reference"] == 60
    assert (report["guidance_scale"], report["num_inference_steps"], report["sampler"]) == (1, 7, "dpm++")
    figures = ["KID-EffLite0", "KID-EffLite0 error", "FD-EffLite0", "sFD-EffLite0"]
    figures += ["IS-EffLite0", "precision-EffLite0", "recall-EffLite0"]
    assert [word for word in report if "EffLite0" in word] == figures
    assert not any("FID" in word for word in report)
    assert abs(report["KID-EffLite0"]) < 5 * report["KID-EffLite0 error"]  # the same images but for the seeds
    assert [path.name for path in sorted(here.glob("out*"))] == ["out.npz"]  # the state of the run is gone


def test_the_models_own_settings_are_what_it_begins_with(capsys):
    """Would catch a model that is judged by settings that neither the app nor Python draw it with."""
    own = call(capsys, SAMPLE)
    assert (own["guidance_scale"], own["num_inference_steps"]) == (2.5, 12)
    assert (own["guidance_power"], own["sampler"]) == (4.0, "dpm++")  # as published, where it carries none
    given = call(capsys, f"{SAMPLE.replace('out.npz', 'given.npz')} --preset fast --scale 1 --sampler ddim")
    assert (given["guidance_scale"], given["num_inference_steps"], given["sampler"]) == (1, 5, "ddim")


def test_the_figures_tell_good_from_bad(capsys):
    """Would catch the reference judged against itself, or real and generated swapped (precision is the smaller)."""
    good = call(capsys, f"{SAMPLE} --reference real.npz --scale 1")
    bad = call(capsys, "--model m --num-images 30 --out bad.npz --reference real.npz --scale 4")
    assert bad["KID-EffLite0"] > good["KID-EffLite0"] + 0.3
    assert bad["FD-EffLite0"] > 10 * good["FD-EffLite0"]
    assert bad["precision-EffLite0"] < 0.2 < 0.7 < good["precision-EffLite0"]


def test_the_same_command_again_draws_nothing(capsys):
    first = call(capsys, f"{SAMPLE} --reference real.npz")
    calls = Pipeline.calls
    assert call(capsys, f"{SAMPLE} --reference real.npz") == first
    assert Pipeline.calls == calls == 4


def test_the_batch_size_changes_no_figure(capsys):
    first = call(capsys, f"{SAMPLE} --reference real.npz")
    other = call(capsys, "--model m --num-images 30 --batch-size 7 --out other.npz --reference real.npz")
    assert {**first, "images": ""} == {**other, "images": ""}


def test_png_folder_keeps_the_images(here, capsys):
    call(capsys, f"{SAMPLE} --png-folder pngs")
    assert len(list((here / "pngs").glob("*.png"))) == 30
    with np.load("out.npz") as arrays:
        np.testing.assert_array_equal(np.asarray(Image.open("pngs/000029.png")), arrays["arr_0"][29])


def test_a_grid_alone_samples_what_it_shows(here, capsys):
    call(capsys, "--model m --grid grids/grid.png --per-class 2")
    assert Image.open("grids/grid.png").height == 2 * MARGIN + 3 * 64 + 2 * LEAST_GAP
    with np.load("grids/grid.npz") as arrays:
        assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_sweep_judges_every_value(here, capsys):
    reports = call(capsys, f"{SAMPLE} --reference real.npz --sweep scale=1:3:1")
    assert [report["guidance_scale"] for report in reports] == [1, 2, 3]
    assert [report["images"] for report in reports] == [f"out-scale={value}.npz" for value in ("1.0", "2.0", "3.0")]
    kid = [report["KID-EffLite0"] for report in reports]
    assert kid == sorted(kid)
    assert Image.open(here / "out.scale.png").width > 800


def test_floor_and_samples(capsys):
    """One half of the reference against the other, and a finished file judged once more."""
    floor = call(capsys, "--floor --reference real.npz")
    assert (floor["num_images"], floor["num_reference"]) == (30, 30)
    assert abs(floor["KID-EffLite0"]) < 5 * floor["KID-EffLite0 error"]
    itself = call(capsys, "--samples real.npz --reference real.npz --grid real.png")
    assert itself["FD-EffLite0"] == pytest.approx(0, abs=1e-6)
    assert (itself["precision-EffLite0"], itself["recall-EffLite0"]) == (1, 1)


def test_the_reference_is_looked_at_once(here, capsys):
    call(capsys, "--floor --reference real.npz")
    kept = list((here / "data/features").iterdir())
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    call(capsys, "--floor --reference real.npz")
    assert kept[0].stat().st_mtime_ns == before


def test_reconstructions_are_judged(capsys, monkeypatch):
    """By a perfect autoencoder, and by one that brightens by 10 grey levels. Would catch a wrong way from 0..255 to
    [-1, 1] or back, and originals judged in place of their reconstructions."""
    from mdt_core import autoencoder
    from train.evaluate import reconstruct

    class Vae(torch.nn.Module):
        pass

    monkeypatch.setattr(reconstruct, "open_autoencoder", lambda model: Vae())
    monkeypatch.setattr(autoencoder, "encode", lambda vae, pixels: pixels)
    monkeypatch.setattr(autoencoder, "decode", lambda vae, latents: latents)
    perfect = call(capsys, "--model m --reconstruct real.npz")
    assert perfect["FD-EffLite0"] == pytest.approx(0, abs=1e-6)
    assert perfect["PSNR"] > 100
    monkeypatch.setattr(autoencoder, "decode", lambda vae, latents: latents + 10 / 127.5)
    shifted = call(capsys, "--model m --reconstruct real.npz")
    assert shifted["FD-EffLite0"] > 0.01
    assert shifted["PSNR"] == pytest.approx(20 * np.log10(255 / 10), abs=0.1)


def test_a_real_pipeline_is_sampled_and_its_autoencoder_judged(here, capsys, monkeypatch):
    """The smallest there is, with random weights, from a folder. Would catch arguments that the stand-in takes and the
    pipeline does not, and an autoencoder that is looked for in the wrong place."""
    from diffusers import AutoencoderTiny

    from mdt_core import MDTPipeline, MDTv2

    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    shape = {"sample_size": 4, "patch_size": 2, "in_channels": 4, "num_classes": 3}
    transformer = MDTv2(**shape, hidden_size=32, depth=4, num_heads=2, mlp_ratio=2.0, decoder_layers=2)
    widths = {"encoder_block_out_channels": (8,), "decoder_block_out_channels": (8,)}
    blocks = {"num_encoder_blocks": (1,), "num_decoder_blocks": (1,)}
    vae = AutoencoderTiny(in_channels=12, out_channels=12, latent_channels=4, **widths, **blocks)
    MDTPipeline(transformer, vae, id2label={0: "cat", 1: "dog", 2: "owl"}).save_pretrained("model")
    vae.save_pretrained("autoencoder")

    report = call(capsys, "--model model --num-images 9 --batch-size 4 --steps 3 --reference real.npz --grid grid.png")
    assert report["num_images"] == 9
    with np.load("grid.npz") as arrays:
        assert arrays["arr_0"].shape == (9, 8, 8, 3)
        assert arrays["names"].tolist() == ["cat", "dog", "owl"]

    report = call(capsys, "--model model --reconstruct real.npz")
    assert report["num_images"] == 60
    assert call(capsys, "--model autoencoder --reconstruct real.npz")["PSNR"] == report["PSNR"]

    with pytest.raises(SystemExit):
        call(capsys, "--model model --num-images 9 --sampler dmp++")
    assert "dmp++" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("scale=1:4:0.25", [1 + i / 4 for i in range(13)]),
        ("power=0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("steps=10:50:20", [10, 30, 50]),
    ],
)
def test_sweeps_include_both_ends(sweep, values):
    """Would catch the last value lost to rounding, and steps that are not whole numbers."""
    assert parse_sweep(sweep)[1] == values


@pytest.mark.parametrize(
    "sweep", ["scale", "size=1:2:1", "scale=1:2", "scale=1:2:0", "scale=0:inf:1", "scale=2:1:1", "steps=1:2:0.5"]
)
def test_a_wrong_sweep_is_refused(sweep):
    with pytest.raises(ValueError, match="WORD=FIRST:LAST:STEP"):
        parse_sweep(sweep)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "one of the arguments --model --samples --floor is required"),
        ("--floor", "--reference is missing"),
        ("--floor --reference real.npz --grid g.png", "--floor has none"),
        ("--reconstruct avatars:test --samples real.npz", "needs the --model"),
        ("--model m --num-images 0", "argument --num-images: must be 1 or more, not 0"),
        ("--samples real.npz --reference nowhere", "nowhere is neither"),
        ("--samples real.npz --reference avatars:test", "python -m train.avatars"),
        ("--model m --sweep scale=1:2:1 --grid g.png", "--sweep goes with"),
        ("--samples real.npz --reference real.npz --out x.npz", "sampled from a --model"),
        ("--model m --num-images 6 --out real.npz", "already, with other images"),
        ("--model is-not-opened-first --reference nowhere", "nowhere is neither"),
        ("--model m --num-images many", "invalid number value"),
    ],
)
def test_a_wrong_call_ends_with_one_line(command, message, capsys):
    with pytest.raises(SystemExit) as end:
        run_command("train.evaluate", command.split())
    told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert len(told) == 1
    assert message in told[0]


def test_a_missing_judge_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SystemExit):
        run_command("train.evaluate", ["--floor", "--reference", "real.npz"])
    assert "requirements-dev.txt" in capsys.readouterr().err
