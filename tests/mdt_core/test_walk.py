"""A walk between two pictures: it begins and ends with them, and stays as strong as noise on the way."""

import pytest
import torch

from mdt_core.pipeline.walk import slerp, walk
from tests.helpers.tiny import tiny_pipeline


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
@pytest.mark.parametrize("end", [{"dog": 3, "sea lion": 1}, None])
def test_it_begins_and_ends_with_the_pictures_of_its_ends(sampler, end):
    """Catches a walk that is turned around, whose ends are only nearly those pictures, or that ends with no class and
    cannot be drawn."""
    pipe = tiny_pipeline()
    settings = {"num_inference_steps": 3, "sampler": sampler, "output_type": "latent"}
    latents, labels = walk(pipe, 4, (3, 9), ("cat", end))
    frames = pipe(labels, latents=latents, seeds=0, **settings).images
    assert torch.equal(frames[0], pipe("cat", seeds=3, **settings).images[0])
    assert torch.equal(frames[-1], pipe(end, seeds=9, **settings).images[0])
    assert len({frame.numpy().tobytes() for frame in frames}) == 4


def test_one_seed_or_one_class_stays_what_it_is():
    """Catches a division by the sine of no angle, and a class that shrinks on its way to itself."""
    latents, labels = walk(tiny_pipeline(), 3, (5, 5), ("dog", "dog"))
    assert torch.equal(latents[0], latents[1]) and torch.equal(latents[0], latents[2])
    assert labels == [{1: 1.0}] * 3
    assert walk(tiny_pipeline(), 3, (5, 6), (None, "cat"))[1] == [
        {None: 1.0, 0: 0.0},
        {None: 0.5, 0: 0.5},
        {None: 0.0, 0: 1.0},
    ]


def test_halfway_the_noise_is_as_strong_as_at_the_ends():
    """Catches a straight line, whose middle has 0.7 of the norm."""
    start, end = torch.randn(2, 4, 16, 16)
    middle = slerp(start, end, 0.5)
    assert middle.norm() == pytest.approx((start.norm() + end.norm()).item() / 2, rel=0.02)
    torch.testing.assert_close((middle - start).norm(), (middle - end).norm(), rtol=0.05, atol=0)
    assert torch.equal(slerp(start, -start, 0.0), start)


def test_a_walk_of_one_frame_is_none():
    with pytest.raises(ValueError, match="at least 2 frames, not 1"):
        walk(tiny_pipeline(), 1, (0, 1), ("cat", "dog"))


def test_ends_that_cannot_be_mixed_are_refused_before_a_picture():
    """Catches a walk that fails at its second frame, when the first is drawn."""
    pipe = tiny_pipeline()
    pipe.id2label = {index: f"class {index}" for index in range(10)}
    first, second = dict.fromkeys(range(5), 1.0), dict.fromkeys(range(4, 9), 1.0)
    with pytest.raises(ValueError, match="name 9 classes, and at most 8"):
        walk(pipe, 3, (0, 1), (first, second))
