"""What a training step draws: the same in every process and after a restart, each image once an epoch."""

import os
import subprocess
import sys

import pytest
import torch

from mdt_core.training.config import num_kept
from mdt_core.training.draws import Draws, batch_indices
from tests.helpers.tiny_training import CONFIG


def test_every_image_is_seen_once_an_epoch():
    """Catches a window that repeats or skips images where epochs meet."""
    seen = [i for step in range(10) for i in batch_indices(step, 4, 8, seed=3)]
    assert all(sorted(seen[e : e + 8]) == list(range(8)) for e in range(0, 40, 8))
    assert seen[:8] != seen[8:16]


@pytest.mark.slow
def test_the_order_of_images_is_the_same_in_every_process():
    """Catches an order that depends on Python's hash seed: a resumed run, or a second process, would see another."""
    code = "from mdt_core.training.draws import batch_indices; print(batch_indices(0, 8, 1000, seed=3))"
    variables = os.environ | {"PYTHONHASHSEED": "1"}  # ours is drawn anew for every process
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=True)
    assert done.stdout == f"{batch_indices(0, 8, 1000, seed=3)}\n".encode()


def test_masks_hide_the_drawn_share():
    """Catches a ratio that is the share of kept tokens, or one that is the same at every step."""
    counts = {Draws.of_step(step, CONFIG, (1, 4, 8, 8), 63, "cpu").keep.shape[1] for step in range(200)}
    assert min(counts) in (31, 32) and max(counts) in (43, 44) and len(counts) > 10
    assert [num_kept(256, ratio) for ratio in (0.3, 0.4, 0.5)] == [176, 152, 128]
    assert [num_kept(64, ratio) for ratio in (0.3, 0.4, 0.5)] == [44, 38, 32]  # 31%, 41% and 50% hidden


def test_masked_and_full_pass_have_their_own_noise_and_the_same_timesteps():
    draws = Draws.of_step(0, CONFIG, (4, 4, 8, 8), 16, "cpu")
    assert not torch.equal(draws.noise, draws.masked_noise)
    assert draws.timesteps.shape == (4,)
