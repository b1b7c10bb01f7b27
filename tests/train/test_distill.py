"""Distillation: targets that lead where the teacher is, a student that learns them, a command that resumes."""

import shutil
from pathlib import Path

import pytest
import torch

from mdt_core import MDTPipeline
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import Run
from mdt_core.samplers import sample, sampling_timesteps
from tests.helpers.tiny import tiny_pipeline
from train.distill.__main__ import main
from train.distill.training import targets
from train.distill.trajectories import BATCH, draw_trajectories

OWN = {"guidance_scale": 3.0, "guidance_power": 0.0, "first_timestep": 800}


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_a_student_that_answers_the_targets_walks_through_the_teachers_states(sampler):
    """Catches targets of a solver of another order than the one that draws, and a last step of another kind."""
    settings = SamplingSettings(sampler=sampler, num_inference_steps=4, first_timestep=800)
    states = torch.randn(2, 5, 3, 4, 4)
    epsilon, reach = targets(states, settings)
    timesteps = sampling_timesteps(**settings.trajectory)
    steps = sample(
        lambda x_t, t: epsilon[:, timesteps.index(t)].repeat(1, 2, 1, 1), states[:, 0], **settings.trajectory
    )
    for index, step in enumerate(steps):
        torch.testing.assert_close(step.x_t, states[:, index + 1], rtol=1e-4, atol=1e-4)
    assert (reach < 0).all(), "more noise seen, less of it left"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a model that is guided by a mask."""
    monkeypatch.chdir(tmp_path)
    pipe = tiny_pipeline()
    pipe.sampling_defaults = OWN | {"guidance_kind": "mask", "num_inference_steps": 8}
    pipe.save_pretrained("model")
    return tmp_path


def test_a_model_without_classes_is_walked_with(tmp_path):
    """Catches a division by no classes."""
    settings = SamplingSettings(num_inference_steps=2, guidance_scale=1.0)
    drawn = draw_trajectories(tiny_pipeline({}), settings, settings, 2, tmp_path)
    assert len(drawn.states) == BATCH and not drawn.labels.any()


def distil(*settings: str) -> Run:
    tiny = ["model=model", "teacher_steps=8", "student_steps=4", f"num_images={2 * BATCH}", "rank=4", "batch_size=16"]
    main(["avatars", "--output-dir", "run", "--set", *tiny, "log_every=10", "save_every=10", *settings])
    return Run(Path("run"))


def test_the_command_resumes_and_its_student_learns_what_the_teacher_does(here):
    run = distil("steps=20")
    file = run.folder / "pytorch_lora_weights.safetensors"
    short = file.read_bytes()
    file.unlink()
    run = distil("steps=60")
    assert [row["step"] for row in run.metrics] == [10, 20, 30, 40, 50, 60]
    errors = [row["held_out"] for row in run.metrics]
    assert errors[-1] < errors[1] < errors[0] < 1
    assert file.read_bytes() != short

    pipe = MDTPipeline.from_pretrained(run.folder / "pipeline")
    fast, before = pipe.sampling_presets["fast"], MDTPipeline.from_pretrained("model")
    assert fast.distilled and fast.evaluations == fast.num_inference_steps == 4
    assert pipe.sampling_defaults == before.sampling_defaults
    asked = {"seeds": list(range(8)), "output_type": "latent"}
    teacher = before([0] * 8, **asked, **before.sampling_defaults.arguments).images
    student = pipe([0] * 8, **asked, **fast.arguments).images
    untaught = before([0] * 8, **asked, **fast.but(distilled=False).arguments).images
    assert (student - teacher).square().mean() < 0.8 * (untaught - teacher).square().mean()


def test_from_a_checkpoint_it_goes_on_as_if_it_had_never_stopped(here):
    run = distil("steps=20", "keep_checkpoints=2")
    file = run.folder / "pytorch_lora_weights.safetensors"
    whole = file.read_bytes()
    shutil.rmtree(run.checkpoints[20])
    file.unlink()
    distil("steps=20")
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "settings, words",
    [
        (["teacher_steps=6"], "teacher_steps must be a multiple of student_steps, 4, not 6"),
        (["rank=0"], "rank must be at least 1, not 0"),
        (["model=nowhere"], "nowhere"),
        (["minutes=0"], "minutes must be above 0, not 0"),
    ],
)
def test_a_wrong_setting_ends_with_one_line(here, capsys, settings, words):
    with pytest.raises(SystemExit) as end:
        distil("steps=1", *settings)
    assert end.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
    assert not (here / "run").exists()
