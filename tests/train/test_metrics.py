"""The figures of merit, each against a closed form, an independent implementation or a property."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from train.evaluate import metrics


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, d))


def gaussian(mean: list[float], covariance: np.ndarray) -> metrics.FeatureStatistics:
    return metrics.FeatureStatistics(torch.tensor(mean).double(), torch.tensor(covariance).double())


# ---- Frechet distance


def test_fit_statistics_agrees_with_numpy():
    """Would catch a covariance divided by N, or one of columns and rows swapped."""
    x = draw(50, 6, 0) @ draw(6, 6, 1)
    fitted = metrics.fit_statistics(x)
    np.testing.assert_allclose(fitted.mean, x.mean(0), atol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(x, rowvar=False), atol=1e-12)


def test_frechet_distance_of_known_gaussians():
    """Commuting covariances: the sum of (difference of means)^2 + (difference of standard deviations)^2."""
    p = gaussian([0.0, 1.0, 2.0], np.diag([1.0, 4.0, 9.0]))
    q = gaussian([1.0, 1.0, 0.0], np.diag([4.0, 4.0, 0.0]))
    assert metrics.frechet_distance(p, q) == pytest.approx((1 + 0 + 4) + (1 + 0 + 9), abs=1e-12)


def test_frechet_distance_agrees_with_a_general_matrix_square_root():
    """Covariances that do not commute. Would catch a product of the two roots in place of the root of the product."""
    x, y = draw(300, 12, 0) @ draw(12, 12, 1), draw(300, 12, 2, shift=0.5) @ draw(12, 12, 3)
    p, q = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(p @ q).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(p + q - 2 * root)
    found = metrics.frechet_distance(metrics.fit_statistics(x), metrics.fit_statistics(y))
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_fewer_images_than_numbers():
    """Singular covariances, as with 1,000 images of 1,280 numbers: zero to itself, symmetric, and finite."""
    p, q = metrics.fit_statistics(draw(10, 40, 0)), metrics.fit_statistics(draw(10, 40, 1, shift=1.0))
    assert metrics.frechet_distance(p, p) == pytest.approx(0, abs=1e-5)
    assert metrics.frechet_distance(p, q) == pytest.approx(metrics.frechet_distance(q, p), rel=1e-6)
    # The spans of two small sets share next to nothing: the closed form without the root is an upper bound.
    bound = (p.mean - q.mean).square().sum() + p.covariance.trace() + q.covariance.trace()
    assert 0 < metrics.frechet_distance(p, q) <= bound


# ---- kernel distance


def brute_force_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    xy = [k(a, b) for a in x for b in y]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


@pytest.mark.parametrize("rows", [1024, 7])
def test_kernel_distance_agrees_with_brute_force(monkeypatch, rows):
    """Sets of unequal size, in one block of rows and in several. Would catch a diagonal that is left in (the biased
    estimate), a wrong degree, or rows lost between blocks."""
    monkeypatch.setattr(metrics, "ROWS", rows)
    x, y = draw(23, 5, 0), draw(17, 5, 1, shift=0.3)
    assert metrics.kernel_distance(x, y).value == pytest.approx(brute_force_kernel_distance(x, y), rel=1e-10)


def test_kernel_distance_has_no_bias():
    """Twenty images against twenty of the same kind, 300 times: the mean is 0 within its own standard error."""
    values = [metrics.kernel_distance(draw(20, 4, 2 * i), draw(20, 4, 2 * i + 1)).value for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.5, 0.85, 1.15), (0.0, 1.0, 1.6)])
def test_kernel_distance_error_is_the_spread_over_repeated_draws(shift, low, high):
    """Would catch a standard error that lacks a factor (2, or the size of the set) or one of the two sets."""
    found = [metrics.kernel_distance(draw(80, 4, 2 * i), draw(120, 4, 2 * i + 1, shift)) for i in range(300)]
    stated = np.mean([estimate.error for estimate in found])
    assert low < stated / np.std([estimate.value for estimate in found]) < high


# ---- Inception Score


def test_inception_score_of_extremes():
    """1 where all images are alike, the number of classes where each is certain and all are equally frequent."""
    assert metrics.inception_score(np.tile([0.2, 0.3, 0.5], (9, 1))) == pytest.approx(1)
    assert metrics.inception_score(np.tile(np.eye(4), (5, 1))) == pytest.approx(4)


def test_inception_score_agrees_with_the_definition_in_splits():
    """Would catch a marginal taken over all images in place of the split's, and a mean of logarithms."""
    p = np.random.default_rng(0).dirichlet(np.ones(6), 23)

    def score(split):
        marginal = split.mean(0)
        return math.exp(np.mean([scipy.stats.entropy(row, marginal) for row in split]))

    assert metrics.inception_score(p, split_size=10) == pytest.approx((score(p[:10]) + score(p[10:20])) / 2)
    assert metrics.inception_score(p) == pytest.approx(score(p))


# ---- precision and recall


def brute_force_share_inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    inside = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
            if np.linalg.norm(point - centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("rows", [1024, 7])
def test_precision_and_recall_agree_with_brute_force(monkeypatch, rows):
    """Would catch precision and recall swapped, and a neighbour counted as its own (k off by one)."""
    monkeypatch.setattr(metrics, "ROWS", rows)
    real, generated = draw(40, 3, 0), 0.6 * draw(30, 3, 1, shift=0.4)
    precision, recall = metrics.precision_recall(real, generated, k=3)
    assert precision == pytest.approx(brute_force_share_inside(generated, real, k=3))
    assert recall == pytest.approx(brute_force_share_inside(real, generated, k=3))
    assert precision > recall  # a narrow copy: good images, little of the variety


def test_precision_and_recall_of_extremes():
    x = draw(30, 3, 0)
    assert metrics.precision_recall(x, x) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)


# ---- peak signal to noise


def test_peak_signal_to_noise_is_a_mean_over_images():
    """Errors of 1 and 10 grey levels are 48.13 and 28.13 dB. Would catch uint8 differences that wrap around, and the
    mean squared error pooled over images (31.1 dB)."""
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    copies = images.copy()
    copies[0] += 1
    copies[1] -= 10
    assert metrics.peak_signal_to_noise(images, copies) == pytest.approx(38.13, abs=0.01)


# ---- all of them


def test_arrays_tensors_and_float32_give_the_same_figures():
    """Would catch arithmetic left in float32: with a mean of 1,000 its covariance is noise."""
    x = (draw(200, 4, 0) + 1000).astype(np.float32)
    y = (draw(200, 4, 1) + 1000).astype(np.float32)
    narrow = metrics.frechet_distance(metrics.fit_statistics(torch.from_numpy(x)), metrics.fit_statistics(y))
    wide = metrics.frechet_distance(
        metrics.fit_statistics(x.astype(np.float64) - 1000), metrics.fit_statistics(y.astype(np.float64) - 1000)
    )
    assert narrow == pytest.approx(wide, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.fit_statistics(np.zeros((4, 2, 2))), "one row per image"),
        (lambda: metrics.fit_statistics(np.zeros((1, 2))), "hold 1 images"),
        (lambda: metrics.kernel_distance(np.zeros((4, 2)), np.zeros((4, 3))), "2 numbers an image, generated ones 3"),
        (lambda: metrics.kernel_distance(np.zeros((4, 2)), np.full((4, 2), np.nan)), "not finite"),
        (lambda: metrics.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)), k=3), "at least 4"),
        (lambda: metrics.inception_score(np.array([[2.0, 3.0]])), "softmax"),
    ],
)
def test_wrong_features_are_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
