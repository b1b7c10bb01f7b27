"""The training command from latents to a pipeline folder, and what it says to a wrong call."""

import numpy as np
import pytest
from PIL import Image

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.runs import Run, pipeline_of
from train import avatars
from train.__main__ import main
from train.autoencoder import small_autoencoder
from train.encode import encode
from train.images import DrawnImages


@pytest.fixture
def settings(tmp_path) -> list[str]:
    """Latents of 48 random images of three classes, and settings for a very short run on them."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (48, 3, 32, 32), np.uint8), np.arange(48) % 3
    avatars.save(tmp_path, "train", avatars.Split(images, labels, np.arange(48), names=("cat", "dog", "hen")))
    vae = small_autoencoder(8, 8, latent_channels=8, block=4)
    vae.save_pretrained(tmp_path / "vae")
    encode(DrawnImages(tmp_path, "train"), vae, tmp_path / "latents")
    return [f"latents={tmp_path / 'latents'}", f"vae={tmp_path / 'vae'}", "batch_size=4", "log_every=1", "save_every=2"]


def test_the_command_makes_a_pipeline_and_the_same_command_resumes(settings, tmp_path, capsys):
    """Catches a run that starts over, a preview or class names that do not reach the model, a folder left half made."""
    run = Run(tmp_path / "run")
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=3"])
    first = [row["images_per_second"] for row in run.metrics]
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=5"])
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5]
    assert [row["images_per_second"] for row in run.metrics][:3] == first  # not run again
    assert list(run.checkpoints) == [4, 5]
    assert Image.open(run.samples[5]).size == (3 * 32, 2 * 32)  # a column per class
    assert run.config["training"]["steps"] == 5 and run.config["classes"] == ["cat", "dog", "hen"]

    pipe = MDTPipeline.from_pretrained(run.folder / "pipeline")
    assert pipe.id2label == {0: "cat", 1: "dog", 2: "hen"} and pipe.image_size == 32
    assert pipe.config.preview_weights is not None and pipe.config.guidance_channels is None
    assert all(file.stat().st_size < 10_000_000 for file in (run.folder / "pipeline").rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["avatar"], "avatars-gpu"),
        (["avatars", "--set", "stepps=3"], "stepps"),
        (["avatars", "--set", "latents=nowhere"], "train.latents"),
    ],
)
def test_a_wrong_command_ends_with_one_line(arguments, message, tmp_path):
    with pytest.raises(SystemExit) as end:
        main([arguments[0], "--output-dir", str(tmp_path / "run"), *arguments[1:]])
    assert message in str(end.value) and "\n" not in str(end.value)


def test_a_checkpoint_opens_as_a_pipeline_while_its_run_is_being_trained(settings, tmp_path, monkeypatch):
    """Catches a run folder without autoencoder or class names before its end, and a start that resets them."""
    run = Run(tmp_path / "run")
    monkeypatch.setattr("train.__main__.export", lambda *_: None)  # the run never comes to its end
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=2"])
    transformer, rest = pipeline_of(run.checkpoints[2])
    pipe = MDTPipeline.from_pretrained(rest, transformer=MDTTransformer.from_pretrained(transformer))
    assert pipe.id2label == {0: "cat", 1: "dog", 2: "hen"} and pipe.config.preview_weights is not None
    for folder in (run.folder, run.folder / "checkpoints" / "step_00000009"):
        with pytest.raises(ValueError, match="no checkpoint"):
            pipeline_of(folder)
