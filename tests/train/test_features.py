"""The judge: the weights are the right ones, rightly fed, and what it has seen once is kept."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.evaluate import features

CHEETAH = 293  # its place among the ImageNet classes


@pytest.fixture(scope="module")
def judge() -> features.EffLite0:
    return features.EffLite0()


def noise(n: int, seed: int = 0, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_the_judge_knows_a_cheetah(judge):
    """A photograph that comes with gradio. Would catch weights left random, channels swapped to BGR, rows and
    channels mixed up, or pixels fed as 0..1."""
    package = Path(find_spec("gradio").origin).parent
    photograph = Image.open(package / "media_assets/images/cheetah.jpg").convert("RGB")
    probabilities = judge(np.asarray(photograph)[None]).probabilities[0]
    assert probabilities.argmax() == CHEETAH
    assert probabilities[CHEETAH] > 0.9  # 0.98; in BGR it is a wading bird


def test_shapes_and_kinds(judge):
    seen = judge(noise(3))
    assert [a.shape for a in vars(seen).values()] == [(3, 1280), (3, 1024), (3, 1000)]
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in vars(seen).values())
    np.testing.assert_allclose(seen.probabilities.sum(1), 1, atol=1e-5)


def test_input_is_scaled_as_the_weights_expect(judge):
    """(x - 127) / 128 at 128 px, and bicubic as Pillow does it."""
    image = 64 + noise(1, side=40) // 2  # mid grey: Pillow clips overshoots between its two passes
    expected = (np.asarray(Image.fromarray(image[0]).resize((128, 128), Image.Resampling.BICUBIC)) - 127.0) / 128
    found = judge.prepare(image)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1.5 / 128)  # and rounds to whole pixels
    large = judge.prepare(noise(1, side=512))
    assert large.std() < 0.2  # averaged on the way down, where picking pixels keeps the 0.58 of the noise


def test_an_image_is_judged_for_itself(judge):
    """Would catch batch norm or dropped connections in training mode, and rows out of order."""
    images = noise(5)
    together = features.extract(judge, images, batch_size=5)
    apart = features.extract(judge, images, batch_size=2)
    for one, other in zip(vars(together).values(), vars(apart).values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(apart.select(np.array([3])).pooled, judge(images[3:4]).pooled, atol=1e-4)


def test_spatial_features_know_the_place(judge):
    """Mirror an image: its places change, where an average over space would hardly. Would catch the hook on a block
    after the pooling, or pooled features stored twice."""
    image = np.full((1, 128, 128, 3), 255, np.uint8)
    image[:, 24:104, 8:48] = (200, 40, 40)
    seen, mirrored = judge(image), judge(np.ascontiguousarray(image[:, :, ::-1]))
    maps, mirrored_maps = (s.spatial.reshape(16, 8, 8) for s in (seen, mirrored))
    assert np.corrcoef(maps.ravel(), mirrored_maps[:, :, ::-1].ravel())[0, 1] > 0.8
    assert np.corrcoef(maps.ravel(), mirrored_maps.ravel())[0, 1] < 0.6


class Blind:
    """Counts its calls and sees nothing but the mean."""

    name = "Blind"
    calls = 0

    def __call__(self, images: np.ndarray) -> features.Features:
        self.calls += 1
        mean = images.mean(axis=(1, 2)).astype(np.float32)
        return features.Features(mean, mean, mean)


def test_features_are_kept_by_content(tmp_path):
    """Would catch a cache keyed by a name: the set is built anew, the old features stay."""
    blind, images = Blind(), noise(3)
    first = features.cached(tmp_path, blind, images)
    again = features.cached(tmp_path, blind, images.copy())
    assert blind.calls == 1
    np.testing.assert_array_equal(first.pooled, again.pooled)

    images[2, 3, 4, 1] ^= 1
    features.cached(tmp_path, blind, images)
    features.cached(tmp_path, blind, images.reshape(3, 32, 8, 3))
    assert blind.calls == 3
    assert len(list(tmp_path.iterdir())) == 3  # and nothing unfinished


def test_weights_are_loaded_without_unpickling(monkeypatch):
    """Would catch `torch.load` without `weights_only=True`."""
    real, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: asked.append(kwargs) or real(*args, **kwargs))
    features.EffLite0()
    assert [kwargs["weights_only"] for kwargs in asked] == [True]
