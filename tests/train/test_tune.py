"""The search for the settings that suit a model, from its rule to the presets in the model's folder."""

import json
import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from mdt_core import MDTPipeline
from mdt_core.pipeline.open import open_pipeline
from mdt_core.pipeline.settings import SamplingSettings
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from tests.helpers.tiny import tiny_pipeline
from train import tune
from train.evaluate import features, samples
from train.evaluate.sources import ImageSet

START = SamplingSettings()


def test_the_search_ends_where_no_single_change_is_better():
    """Catches one round where a later setting moves the best value of an earlier one, and a start that is forgotten."""
    asked = []

    def distance(settings: SamplingSettings) -> float:
        asked.append(settings)
        return abs(settings.guidance_scale - settings.guidance_power) + abs(settings.guidance_power - 1)

    axes = [[{"guidance_scale": x} for x in (1.0, 2.0, 3.0)], [{"guidance_power": x} for x in (0.0, 1.0, 2.0)]]
    best = tune.search(START, axes, distance)
    assert (best.guidance_scale, best.guidance_power) == (1.0, 1.0)
    assert START in asked
    assert tune.search(best, axes, distance) == best


def row(evaluations: int, kid: float) -> dict:
    return {"evaluations": evaluations, "KID": kid}


def test_a_preset_is_the_best_within_its_evaluations():
    rows = [row(8, 0.5), row(12, 0.3), row(20, 0.4), row(50, 0.2)]
    limits = {"fast": 8, "balanced": 20, "slow": math.inf}
    chosen = tune.choose(rows, "KID", limits)
    assert {name: each["evaluations"] for name, each in chosen.items()} == {"fast": 8, "balanced": 12, "slow": 50}
    assert [each["evaluations"] for each in tune.front(rows, "KID")] == [8, 12, 50]
    with pytest.raises(ValueError, match="no row is within 4 evaluations, for the preset fast"):
        tune.choose(rows, "KID", {"fast": 4})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a model, real images, and a judge that takes no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    tiny_pipeline().save_pretrained("model")
    real = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    samples.write(tmp_path / "real.npz", ImageSet(real, np.arange(16) % 3, ("cat", "dog", "sea lion")))
    return tmp_path


COMMAND = "model --reference real.npz --out out --device cpu --coarse 6 --fine 9 --finalists 1 --fast 5 --balanced 6"
COMMAND += " --scale 1 3 --power 0 --interval 0-999 --guidance class mask --sampler ddim --steps 2 3"
COMMAND += " --first-timestep 999 800"


def test_the_command_resumes_and_writes_presets_that_open(here, monkeypatch, capsys):
    """Catches a row that is drawn twice, pictures drawn anew for a finalist, and presets that the model cannot read."""
    drawn = []
    draw = samples.draw
    monkeypatch.setattr(samples, "draw", lambda *given: drawn.extend(chain(*given[3])) or draw(*given))
    run_command("train.tune", COMMAND.split())
    rows = tune.read_rows(here / "out" / "rows.jsonl")
    coarse, fine = ([each for each in rows if each["num_images"] == count] for count in (6, 9))
    assert len({tune.settings_of(each) for each in coarse}) == len(coarse) and len(fine) == 2
    assert len(drawn) == 6 * len(coarse) + 3 * len(fine)
    assert {each["first_timestep"] for each in coarse} == {999, 800}
    assert all(each["evaluations"] == tune.settings_of(each).evaluations for each in rows)
    assert (here / "out" / "front.png").stat().st_size > 5000
    assert MDTPipeline.from_pretrained("model").sampling_presets["balanced"] == START  # not without --write

    text = (here / "out" / "rows.jsonl").read_text()
    (here / "out" / "rows.jsonl").write_text(text[:-20])  # killed while it was written
    drawn.clear()
    run_command("train.tune", [*COMMAND.split(), "--write"])
    assert drawn == [] and tune.read_rows(here / "out" / "rows.jsonl") == rows
    chosen = json.loads(capsys.readouterr().out.splitlines()[-1])
    presets = MDTPipeline.from_pretrained("model").sampling_presets
    assert presets == {name: tune.settings_of(each) for name, each in chosen.items()}
    assert presets["fast"].num_inference_steps == 2

    real = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), np.uint8)
    samples.write(here / "real.npz", ImageSet(real, np.arange(16) % 3, ("cat", "dog", "sea lion")))
    run_command("train.tune", COMMAND.split())
    assert len(tune.read_rows(here / "out" / "rows.jsonl")) > len(rows)  # against other images, nothing was measured


def test_what_suits_a_checkpoint_goes_into_its_run(here):
    """Catches a run whose checkpoints cannot be tuned, or that begin with other settings than were found."""
    checkpoint = here / "run" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    (here / "model").rename(here / "run" / "pipeline")
    (here / "run" / "pipeline" / "transformer").rename(checkpoint / "transformer")
    of_checkpoint = ["run/checkpoints/step_00000001", *COMMAND.split()[1:], "--steps", "2"]
    run_command("train.tune", [*of_checkpoint, "--write"])
    assert START.num_inference_steps > open_pipeline(checkpoint).sampling_defaults.num_inference_steps == 2
    run_command("train.tune", of_checkpoint)  # which begins with what was written


@pytest.mark.parametrize(
    "change, message",
    [
        (["--interval", "800-200"], "argument --interval"),
        (["--reference", "nowhere"], "nowhere"),
        (["--fast", "1"], "no row is within 1 evaluations"),
    ],
)
def test_a_wrong_call_ends_in_one_line(here, capsys, change, message):
    with pytest.raises(SystemExit) as end:
        run_command("train.tune", [*COMMAND.split(), "--steps", "2", *change])
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_model_on_the_hub_cannot_be_written_to(here, capsys):
    with pytest.raises(SystemExit):
        run_command("train.tune", ["org/name", *COMMAND.split()[1:], "--write"])
    assert "org/name is no folder" in capsys.readouterr().err.splitlines()[-1]


def test_evaluations_are_counted_as_they_are_made():
    pipe = tiny_pipeline()
    settings = SamplingSettings(guidance_power=0.0, num_inference_steps=4, guidance_high=600)
    for each in (settings, replace(settings, guidance_kind="mask"), replace(settings, guidance_scale=1.0)):
        output = pipe("cat", seeds=0, output_type="latent", **each.trajectory, **each.guidance)
        assert output.evaluations == each.evaluations
