"""Processes that die, disks that fill, and two processes that must train as one."""

import json
from dataclasses import replace

import pytest
import torch

from mdt_core.runs import Run
from mdt_core.training.loop import train
from tests.helpers import crashing, tiny_training
from tests.helpers.forked import start, start_together
from tests.helpers.tiny_training import ADAPTED, CONFIG, EightImages, small_model, weights

pytestmark = pytest.mark.forked


def test_a_killed_run_loses_no_checkpoint_and_a_full_disk_leaves_the_last_one_whole(tmp_path):
    """Catches half a checkpoint under a checkpoint's name, steps that a kill changes, a log line that swallows another,
    and a full disk that ends in a traceback, in half a file, or in a checkpoint overwritten.
    """
    done = start(crashing.main, tmp_path, 5, OMP_NUM_THREADS="1").wait()
    assert done.returncode == 0, done.stderr
    error, seen = done.stdout.splitlines()[-2:]
    seen = json.loads(seen)
    assert seen["reached"] == sorted(seen["reached"])
    assert seen["status"] == 0 and seen["bit_equal"] and seen["rows"] == 40
    assert seen["full_disk_status"] == 3 and "make room" in error and str(tmp_path / "whole") in error
    assert seen["same"] and seen["left"] == ["step_00000039", "step_00000040"]


@pytest.mark.parametrize(
    "mode", [(), ("sharded",), ("sharded", "bfloat16")], ids=["copied", "sharded", "sharded in 16 bits"]
)
def test_two_processes_train_as_one(mode, tmp_path):
    """Each with the model or with a part of it (FSDP). Catches processes that see the same images, gradients summed
    instead of averaged, a part taken for the whole, samples that a gathered model cannot draw, a run of two processes
    that one cannot go on with, and more than products in 16 bits (tests/helpers/tiny_training.py looks at the last).

    Adan moves every weight by about the learning rate, 1e-3, whatever its gradient's size: sums in another order show
    in weights whose gradient is nothing but rounding.
    """
    children = start_together(tiny_training.main, tmp_path / "two", 3, *mode)
    train(small_model(**ADAPTED), EightImages(), replace(CONFIG, log_every=1), Run(tmp_path / "one"))
    for child in children:
        done = child.wait()
        assert done.returncode == 0, done.stderr
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    train(small_model(**ADAPTED), EightImages(), replace(CONFIG, log_every=1), two)  # from step 3 on in one process
    assert [row["step"] for row in two.metrics] == [1, 2, 3, 4, 5, 6]
    rounding = 5e-3 if "bfloat16" in mode else 1e-4  # the one process is in float32
    for a, b in zip(one.metrics, two.metrics, strict=True):
        for key in ("loss", "masked_loss", "loss_q1", "gradient_norm"):
            assert key not in a or a[key] == pytest.approx(b[key], rel=rounding), (a["step"], key)
    a, b = weights(one.checkpoints[6]), weights(two.checkpoints[6])
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=2e-3)
