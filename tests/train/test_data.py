"""Data and recipes: splits that do not overlap and come back as they were, settings that are checked."""

import re
from itertools import pairwise

import numpy as np
import pytest

from train import avatars
from train.config import RECIPES
from train.settings import find_recipe


def some_split(seed: int) -> avatars.Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (20, 3, 16, 16), np.uint8)
    return avatars.Split(images, np.arange(20) % len(avatars.STYLES), np.arange(20))


def test_images_of_training_are_dropped_from_the_other_splits():
    train, test = some_split(0), some_split(1)
    test.images[[3, 7]] = train.images[[0, 19]]
    left = avatars.without(test, set(avatars.digests(train.images)))
    assert left.seeds.tolist() == [i for i in range(20) if i not in (3, 7)] and left.dropped == 2


def test_seed_ranges_do_not_meet():
    starts = sorted(avatars.FIRST_SEED.values())
    assert min(b - a for a, b in pairwise(starts)) > 10**7


def test_an_avatar_is_the_same_again_and_each_seed_another():
    pytest.importorskip("dicebear", reason="dicebear-core is not installed")
    first, again, other = (avatars.render("pixel-art", seed, 32) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (32, 32, 3) and first.std() > 10


def test_a_split_comes_back_with_its_class_names(tmp_path):
    """Catches names that are taken from the avatars for a set that is none, and a view whose memory is written."""
    split = some_split(2)
    split = avatars.Split(np.broadcast_to(split.images[:, :1], split.images.shape), split.labels, split.seeds)
    made = avatars.Split(split.images, split.labels, split.seeds, names=("cat", "dog"), dropped=3)
    avatars.save(tmp_path, "train", made)
    found = avatars.load(tmp_path, "train")
    assert found.names == ("cat", "dog")
    assert np.array_equal(found.images, split.images) and np.array_equal(found.labels, split.labels)


def test_a_split_that_was_rendered_otherwise_is_not_kept_in_silence(tmp_path, monkeypatch):
    """Catches a larger training split beside test images that it holds, and a number that is not heeded."""
    monkeypatch.setattr(avatars, "render_split", lambda split, per_class, size, workers: some_split(per_class))
    counts = {"train": 6, "validation": 2, "test": 3}
    avatars.build(tmp_path, 8, counts, 1)
    avatars.build(tmp_path, 8, counts, 1)  # kept
    with pytest.raises(ValueError, match=r"train\.safetensors is there already, with per_class 6, not 9"):
        avatars.build(tmp_path, 8, counts | {"train": 9}, 1)
    (tmp_path / "train.safetensors").unlink()
    with pytest.raises(ValueError, match=r"validation\.safetensors is there already, with train_per_class 6, not 9"):
        avatars.build(tmp_path, 8, counts | {"train": 9}, 1)
    with pytest.raises(ValueError, match="at least 1"):
        avatars.build(tmp_path / "new", 8, counts | {"test": 0}, 1)


def test_settings_change_a_recipe():
    recipe = find_recipe(
        RECIPES, "avatars", ["steps=10", "mask_ratio=(0.2, 0.4)", "latents=elsewhere", "learning_rate=1"]
    )
    assert find_recipe(RECIPES, "avatars", ["steps=1e4"]).training.steps == 10_000  # as people write it
    assert find_recipe(RECIPES, "avatars-dit", ["mask_ratio=(0.3, 0.5)"]).training.mask_ratio == (0.3, 0.5)
    assert recipe.training.steps == 10 and recipe.training.mask_ratio == (0.2, 0.4)
    assert find_recipe(RECIPES, "avatars", ["repeats={'thumbs': 2}", "without=('dense_inputs',)"]).repeats == {
        "thumbs": 2
    }
    with pytest.raises(ValueError, match="samples_per_class must be at least 1"):
        find_recipe(RECIPES, "avatars", ["samples_per_class=0"])
    assert recipe.latents == "elsewhere" and recipe.model == RECIPES["avatars"].model


@pytest.mark.parametrize(
    "name, setting",
    [
        ("avatar", []),
        ("avatars", ["step=1"]),
        ("avatars", ["steps=many"]),
        ("avatars", ["steps=1.5"]),
        ("avatars", ["steps=None"]),
        ("avatars", ["batch_size=True"]),
        ("avatars-dit", ["mask_ratio=0.3"]),
        ("avatars-dit", ["mask_ratio=(0.3,)"]),
        ("avatars", ["without=relative_bias"]),
        ("avatars", ["without=(1,)"]),
        ("avatars-dit", ["mask_ratio=('a', 'b')"]),
        ("avatars", ["repeats={'thumbs': 'often'}"]),
        ("avatars", ["repeats={1: 2}"]),
    ],
)
def test_a_wrong_recipe_or_setting_is_named(name, setting):
    with pytest.raises(ValueError, match=re.escape(setting[0]) if setting else "avatars"):
        find_recipe(RECIPES, name, setting)
