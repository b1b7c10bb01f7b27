"""On a CPU a picture is the same, bit for bit, alone and in any batch: one of sixteen comes again from its recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_core import MDTPipeline
from mdt_core.acceleration.batch_invariance import batch_invariant

SHIPPED = Path(__file__).parents[2] / "assets" / "models" / "avatars"
LABELS = [3, None, 0, 7, 3, None, 15, 11, 2, 8, 9, 1, 4, 5, 6, 10]


@pytest.fixture(scope="module")
def shipped() -> MDTPipeline:
    return MDTPipeline.from_pretrained(SHIPPED)


def check_alone_and_together(alone: list[list], together: list) -> None:
    """Every step of every image, its previews, and the pictures."""
    for number, steps in enumerate(alone):
        for mine, step in zip(steps, together, strict=True):
            assert torch.equal(mine.x_0[0], step.x_0[number]) and torch.equal(mine.x_t[0], step.x_t[number])
        assert np.array_equal(alone[number][0].preview[0], together[0].preview[number])
        assert np.array_equal(alone[number][-1].images[0], together[-1].images[number])


@pytest.mark.slow
def test_generation(shipped):
    """Catches a modulation whose rounding depends on which other classes there are: of "no class" beside a class."""
    settings = {"num_inference_steps": 2, "sampler": "ddpm"}
    alone = [list(shipped.stream(label, seeds=seed, **settings)) for seed, label in enumerate(LABELS)]
    for count in (2, 5, 16):
        together = list(shipped.stream(LABELS[:count], seeds=range(count), **settings))
        check_alone_and_together(alone[:count], together)


@pytest.mark.slow
def test_generation_with_few_steps(shipped):
    """The same with the weights for few steps, which have a cache of their own."""
    fast = shipped.sampling_presets["fast"].arguments
    alone = [list(shipped.stream(label, seeds=seed, **fast)) for seed, label in enumerate(LABELS[:5])]
    check_alone_and_together(alone, list(shipped.stream(LABELS[:5], seeds=range(5), **fast)))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [2, 62])
def test_inpainting(shipped, kept):
    """Catches a masked pass of so few tokens, kept or hidden, that a batch's products round in another order."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = np.asarray(Image.fromarray(picture).resize((128, 128)))
    tokens = np.arange(64).reshape(8, 8) < 64 - kept
    mask = tokens.repeat(16, 0).repeat(16, 1)
    settings = {"num_inference_steps": 4, "grow": 0}
    alone = [list(shipped.stream_inpaint(picture, mask, 3, seeds=seed, **settings)) for seed in range(3)]
    check_alone_and_together(alone, list(shipped.stream_inpaint(picture, mask, 3, seeds=range(3), **settings)))


def counted(rounding: float):
    """A model whose answer depends on the size of its batch by so much, and the sizes that it was asked for."""
    sizes = []

    def model(x, timesteps, class_labels, keep=None):
        sizes.append(len(x))
        assert all(each is None or len(each) == len(x) for each in (timesteps, class_labels, keep))
        return x + rounding * len(x)

    return model, sizes


@pytest.mark.parametrize("rounding, afterwards", [(0.0, [3]), (1e-6, [1, 1, 1])])
def test_a_batch_is_evaluated_at_once_only_where_that_changes_nothing(rounding, afterwards):
    """Catches a batch that is always taken apart, and one that is trusted because another shape was right."""
    model, sizes = counted(rounding)
    x, timesteps = torch.randn(3, 2, 4, 4), torch.full((3,), 9)
    evaluate = batch_invariant(model, {})
    for keep in (None, torch.zeros(3, 5, dtype=torch.long)):
        for expected in ([1, 1, 1, 3], afterwards, [1]):
            sizes.clear()
            some = slice(0, 1) if expected == [1] else slice(0, 3)
            out = evaluate(x[some], timesteps[some], timesteps[some], None if keep is None else keep[some])
            assert sizes == expected and torch.equal(out, x[some] + rounding)
