"""Data and recipes: splits that do not overlap, latents that come back as they were, settings that are checked."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mdt_core.autoencoder import encode
from train import avatars
from train.autoencoder import small_autoencoder
from train.config import RECIPES, find_recipe
from train.latents import Latents, encode_split


def some_split(seed: int) -> avatars.Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (20, 3, 16, 16), np.uint8)
    return avatars.Split(images, np.arange(20) % len(avatars.STYLES), np.arange(20))


def test_images_of_training_are_dropped_from_the_other_splits():
    train, test = some_split(0), some_split(1)
    test.images[[3, 7]] = train.images[[0, 19]]
    left = avatars.without(test, set(avatars.digests(train.images)))
    assert left.seeds.tolist() == [i for i in range(20) if i not in (3, 7)]


def test_seed_ranges_do_not_meet():
    starts = sorted(avatars.FIRST_SEED.values())
    assert min(b - a for a, b in pairwise(starts)) > 10**7


def test_an_avatar_is_the_same_again_and_each_seed_another():
    pytest.importorskip("dicebear", reason="dicebear-core is not installed")
    first, again, other = (avatars.render("pixel-art", seed, 32) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (32, 32, 3) and first.std() > 10


def test_encoded_images_come_back_by_index(tmp_path, monkeypatch):
    """Catches shards that are read in the wrong order or off by one at their borders."""
    split, vae = some_split(2), small_autoencoder(8, 8, latent_channels=8, block=4)
    monkeypatch.setattr("train.latents.SHARD", 8)
    monkeypatch.setattr(avatars, "load", lambda *_: split)
    encode_split(tmp_path, "train", vae, tmp_path / "latents", batch_size=3)
    data = Latents(tmp_path / "latents")
    assert len(data) == 20 and data.shape == (8, 4, 4)
    assert data.id2label[0] == avatars.STYLES[0]
    indices = [19, 0, 8, 7, 16]
    mean, std, labels = data.batch(indices)
    pixels = torch.from_numpy(split.images[indices]).float() / 127.5 - 1
    torch.testing.assert_close(mean, encode(vae, pixels), rtol=0, atol=1e-5)
    assert std.abs().max() == 0 and labels.tolist() == split.labels[indices].tolist()


def test_a_missing_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("train.latents.SHARD", 8)
    monkeypatch.setattr(avatars, "load", lambda *_: some_split(2))
    encode_split(tmp_path, "train", small_autoencoder(8, 8, 8, 4), tmp_path)
    (tmp_path / "train-00001-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 3"):
        Latents(tmp_path)


def test_settings_change_a_recipe():
    recipe = find_recipe("avatars", ["steps=10", "mask_ratio=(0.2, 0.4)", "latents=elsewhere", "learning_rate=1"])
    assert recipe.training.steps == 10 and recipe.training.mask_ratio == (0.2, 0.4)
    assert recipe.latents == "elsewhere" and recipe.model == RECIPES["avatars"].model


@pytest.mark.parametrize("name, setting", [("avatar", []), ("avatars", ["step=1"]), ("avatars", ["steps=many"])])
def test_a_wrong_recipe_or_setting_is_named(name, setting):
    with pytest.raises(ValueError, match=setting[0] if setting else "avatars"):
        find_recipe(name, setting)
