"""The training benchmark: both sides do the same work, and what is printed can be read by a program."""

import json
from dataclasses import replace

import pytest

from mdt_core.bench.rows import Setting, dtypes
from train import bench
from train.config import RECIPES


@pytest.mark.slow
def test_both_sides_of_a_step_have_the_same_gradients():
    """Catches a ratio of unlike works: another draw, a pass left out, a loss of its own."""
    rows = list(bench.step("MDTv2-XS/4", {"cpu": 2})(Setting("cpu", 1)))
    assert len(rows) == len(dtypes("cpu"))
    for row, most in zip(rows, (1e-4, 2e-2), strict=False):  # float32, and bfloat16 on a CPU that is made for it
        assert row.error < most and row.ratio > 0


def test_the_last_line_is_json_and_what_needs_a_gpu_is_said(capsys):
    bench.main(["--device", "cpu", "--repeats", "1", "--rows", "data", "step-xl", "step-recorded"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    read, large, recorded = last["rows"]
    assert read["error"] == 0 and read["ratio"] > 0
    assert "needs a GPU" in large["note"] and "seconds" not in large
    assert "needs a GPU" in recorded["note"] and "seconds" not in recorded


@pytest.mark.slow
def test_a_recorded_step_is_measured_against_the_same_step():
    """Catches sides that train on other images, and a row that breaks where there is a GPU. Without one nothing is
    recorded, so that both sides end with the same weights to the bit.
    """
    recipe = RECIPES["avatars-gpu"]
    recipe = replace(recipe, model="MDTv2-XS/8", training=replace(recipe.training, batch_size=2))
    row = bench.compare_recorded(recipe, Setting("cpu", 1))
    assert row.error == 0 and row.ratio > 0 and row.against == "launched"
