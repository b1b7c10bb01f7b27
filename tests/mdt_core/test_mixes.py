"""Mixes of classes: one class alone is that class to the bit, and a mix is the same in any batch."""

import numpy as np
import pytest
import torch

from mdt_core import MDTPipeline
from mdt_core.acceleration.cached_conditioning import CachedModel
from mdt_core.guidance import null_labels
from mdt_core.pipeline.labels import class_weights, label_tensor, label_text, parse_label
from tests.helpers.tiny import NAMES, tiny_pipeline
from tests.mdt_core.test_transformer import tiny

MIX = {"cat": 3, 1: 2}
SETTINGS = {"num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe() -> MDTPipeline:
    return tiny_pipeline()


def test_a_mix_of_one_class_is_that_class(pipe):
    """Catches a product that rounds where a row of the table is looked up."""
    dog = pipe("dog", seeds=[4], **SETTINGS).images
    assert torch.equal(dog, pipe([{"dog": 0.3, "cat": 0.0}], seeds=[4], **SETTINGS).images)
    assert not torch.equal(dog, pipe({"dog": 0.3, "cat": 0.1}, seeds=[4], **SETTINGS).images)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_and_plain_ones_in_a_batch_are_what_they_are_alone(dtype):
    """Catches weights rounded to 16 bits, and a modulation looked up for another mix."""
    pipe = tiny_pipeline().optimize(dtype=dtype)
    labels = ["sea lion", MIX, None, {"cat": 2, "dog": 3}, {"sea lion": 1}, MIX]
    together = pipe(labels, seeds=[7] * len(labels), **SETTINGS).images
    for label, image in zip(labels, together, strict=True):
        assert torch.equal(image, pipe(label, seeds=7, **SETTINGS).images[0])
    assert torch.equal(together[1], together[5]) and not torch.equal(together[1], together[3])


def test_a_mix_lies_between_its_classes():
    """The conditioning of 3 parts to 2, against the rows themselves; and half of one is half of the way."""
    model = tiny("MDTv2")
    timesteps, table = torch.tensor([500]), model.y_embedder.embedding_table.weight
    weights = label_tensor([MIX], {0: "cat", 1: "dog", 2: "sea lion"}, 1)
    mixed = model.embed(timesteps, weights) - model.t_embedder(timesteps)
    torch.testing.assert_close(mixed[0], (3 * table[0] + 2 * table[1]) / 5, rtol=0, atol=1e-6)
    x = torch.randn(1, 4, 8, 8)
    row = torch.nn.functional.one_hot(torch.tensor([2]), 4).float()
    assert torch.equal(model(x, timesteps, row), model(x, timesteps, torch.tensor([2])))


@torch.no_grad()
def test_a_cached_model_knows_its_mixes_and_no_others():
    """Catches a mix answered for one that is nearly the same."""
    model = tiny("MDTv2")
    labels = torch.tensor([[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0], [0, 0, 1, 0]])
    both = torch.cat([labels, null_labels(labels, 3)])
    cached = CachedModel(model, [999, 500], both)
    x, timesteps = torch.randn(6, 4, 8, 8), torch.full((6,), 500)
    torch.testing.assert_close(cached(x, timesteps, both), model(x, timesteps, both), rtol=0, atol=1e-5)
    with pytest.raises((IndexError, RuntimeError)):
        cached(x[:1], timesteps[:1], torch.tensor([[0.5, 0.5, 0, 0]]))


def test_inpainting_takes_mixes(pipe):
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True

    def inpaint(label):
        return np.asarray(pipe.inpaint(picture, mask, label, seeds=3, num_inference_steps=3).images[0])

    assert np.array_equal(inpaint({"dog": 2.0}), inpaint("dog"))
    assert not np.array_equal(inpaint(MIX), inpaint("cat"))
    assert np.array_equal(inpaint({None: 1}), inpaint(None))


@pytest.mark.parametrize(
    "mix, message",
    [
        ({"cat": 0.5, "cow": 0.5}, "no class is called 'cow'"),
        ({"cat": -0.5, "dog": 1}, "the weight of class 'cat' must be a number from 0 to 1000, not -0.5"),
        ({"cat": float("nan")}, "from 0 to 1000, not nan"),
        ({"cat": 10**400}, "from 0 to 1000, not 1"),
        ({"cat": True}, "not True"),
        ({"cat": "1"}, "not '1'"),
        ({"cat": 0.0, "dog": 0}, "at least one weight above 0"),
        ({}, "at least one weight above 0"),
        (dict.fromkeys(map(str, range(9)), 1), "at most 8 classes can be mixed, not 9"),
    ],
)
def test_a_wrong_mix_is_named_before_the_first_step(pipe, mix, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream([mix])


def test_a_mix_in_words():
    """Catches a comma or a colon of a class's own that is taken for the mix's, and a part dropped without a word."""
    names = {0: "goldfish, Carassius auratus", 1: "tench", 2: "Foo: bar:1"}
    assert parse_label("goldfish, Carassius auratus:0.25, TENCH : .75", names) == {
        "goldfish, Carassius auratus": 0.25,
        "TENCH": 0.75,
    }
    assert class_weights(parse_label("1:2,tench:3", names), names) == {1: 5}
    assert parse_label("foo: bar:1", names) == 2 and parse_label("1", names) == 1
    assert label_text({1: 3, 0: 1, None: 1}, names) == "tench 60% + goldfish, Carassius auratus 20% + no class 20%"
    assert label_text("tench", NAMES | names) == "tench"
    for wrong in ("tench:0.5,goldfish", "tench:x", "tench:"):
        with pytest.raises(ValueError, match=r"a mix of classes is written as NAME:0\.6,NAME:0\.4, not as"):
            parse_label(wrong, names)
    with pytest.raises(ValueError, match="did you mean tench"):
        parse_label("trench", names)
