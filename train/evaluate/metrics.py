"""Sample quality as pure functions of features: Frechet distance, KID, Inception Score, precision and recall.

    Frechet distance     Heusel et al. 2017 (arXiv:1706.08500), eq. 6; on spatial features: sFID, Nash et al. 2021
    kernel distance      Binkowski et al. 2018 (arXiv:1801.01401), section 3: KID
    Inception Score      Salimans et al. 2016 (arXiv:1606.03498), section 4
    precision, recall    Kynkaanniemi et al. 2019 (arXiv:1904.06991), section 2

and, for pictures of the same thing, the peak signal to noise ratio.

Features are (N, D) arrays or tensors, one row an image, from any network; arithmetic is float64 on the device of the
features. A figure is comparable only with one from the same network and the same number of images: the Frechet
distance is biased upwards by about D/N, the kernel distance is not biased.

Departures: the matrix square root comes from symmetric eigenvalues, so no figure depends on a SciPy version; KID is
the estimate from all images, and its error bar the standard error of that very estimate, in place of the
mean and spread over random subsets.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Matrix = np.ndarray | Tensor  # features (N, D), one row an image
ROWS = 1024  # rows of a pairwise (N, M) matrix that are in memory at once


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor

    def to(self, device: str) -> "FeatureStatistics":
        return FeatureStatistics(self.mean.to(device), self.covariance.to(device))


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error, in the figure's unit."""

    value: float
    error: float


def as_float64(features: Matrix, name: str = "features", least: int = 2) -> Tensor:
    """Features as a float64 matrix (N, D) on their own device.

    Raises:
        ValueError: not a matrix, fewer than `least` rows, or a number that is not finite.
    """
    x = torch.as_tensor(features).to(torch.float64)
    if x.ndim != 2:
        raise ValueError(f"{name} must be a matrix with one row per image, got shape {tuple(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{name} hold {len(x)} images, this figure needs at least {least}")
    if not x.isfinite().all():
        raise ValueError(f"{name} hold numbers that are not finite")
    return x


def _pair(real: Matrix, generated: Matrix, least: int = 2) -> tuple[Tensor, Tensor]:
    x, y = as_float64(real, "real features", least), as_float64(generated, "generated features", least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"real features have {x.shape[1]} numbers an image, generated ones {y.shape[1]}")
    return x, y.to(x.device)


def fit_statistics(features: Matrix) -> FeatureStatistics:
    """Mean and unbiased covariance of features (N, D)."""
    x = as_float64(features)
    mean = x.mean(dim=0)
    centred = x - mean
    return FeatureStatistics(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(p: FeatureStatistics, q: FeatureStatistics) -> float:
    """Squared 2-Wasserstein distance of the normal distributions of two sets of features.

    d^2 = |m_p - m_q|^2 + Tr(C_p + C_q - 2 (C_p C_q)^(1/2))                       (Heusel et al., eq. 6)

    C_p C_q has the eigenvalues of the symmetric A C_q A with A = C_p^(1/2), so that two symmetric eigenvalue
    problems take the place of the square root of a non-symmetric and usually singular matrix.
    """
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"one set of features has {len(p.mean)} dimensions, the other {len(q.mean)}: of two networks?")
    eigenvalues, v = torch.linalg.eigh(p.covariance)
    a = (v * eigenvalues.clamp(min=0).sqrt()) @ v.T
    trace_root = torch.linalg.eigvalsh(a @ q.covariance @ a).clamp(min=0).sqrt().sum()
    difference = p.mean - q.mean
    return float(difference @ difference + p.covariance.trace() + q.covariance.trace() - 2 * trace_root)


def kernel_distance(real: Matrix, generated: Matrix) -> Estimate:
    """Squared maximum mean discrepancy under k(x, y) = (x.y / D + 1)^3, unbiased: may be negative near 0.

    MMD^2 = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j)

    The standard error follows from each image's influence on the estimate (the infinitesimal jackknife): for x_i,
    twice the mean of k(x_i, other x) minus the mean of k(x_i, y); for y_j likewise. Near 0, where both sets come from
    one distribution, it errs on the safe side, by a factor of up to sqrt(2). "Unbiased" means independent draws: sets
    with exactly equal class shares come out low, by the order of 1/N.
    """
    x, y = _pair(real, generated)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        """For each row of a (N, D), the mean of k over the rows of b, without itself where b is a."""
        kernel = [(rows @ b.T / b.shape[1] + 1).pow(3).sum(dim=1) for rows in a.split(ROWS)]
        if a is not b:
            return torch.cat(kernel) / len(b)
        itself = (a.square().sum(dim=1) / a.shape[1] + 1).pow(3)
        return (torch.cat(kernel) - itself) / (len(a) - 1)

    xx, yy, xy, yx = mean_kernel(x, x), mean_kernel(y, y), mean_kernel(x, y), mean_kernel(y, x)
    variance = 4 * (xx - xy).var() / len(x) + 4 * (yy - yx).var() / len(y)
    return Estimate(float(xx.mean() + yy.mean() - 2 * xy.mean()), float(variance.sqrt()))


def inception_score(probabilities: Matrix, split_size: int = 5000) -> float:
    """exp(E_x KL(p(y|x) || p(y))), averaged over splits: from 1 (every image alike) to the number of classes.

    Args:
        probabilities: (N, K) class probabilities, each row adding up to 1.
        split_size: images of a split; the published figures split 50,000 images into ten. Only whole splits count,
            and fewer images than one split are one split.
    """
    p = as_float64(probabilities, "probabilities", least=1)
    if (p < 0).any() or (p.sum(dim=1) - 1).abs().max() > 1e-3:
        raise ValueError("probabilities must be at least 0 and add up to 1 in each row: apply softmax to logits first")
    whole = max(len(p) // split_size, 1) * split_size
    # xlogy is 0 at p = 0, where p log p is not a number.
    scores = [
        (torch.xlogy(s, s) - torch.xlogy(s, s.mean(dim=0))).sum(dim=1).mean().exp() for s in p[:whole].split(split_size)
    ]
    return float(torch.stack(scores).mean())


def precision_recall(real: Matrix, generated: Matrix, k: int = 3) -> tuple[float, float]:
    """Precision: the share of generated images within the manifold of the real ones; recall: the other way round.

    The manifold of a set is the union of the balls around its points that reach to their k-th nearest neighbour in
    the set (eq. 1 of Kynkaanniemi et al.). The balls grow as the sets shrink: compare figures of equal N only.
    """
    x, y = _pair(real, generated, least=k + 1)

    def squared_distances(a: Tensor, b: Tensor) -> Tensor:  # (N, D), (M, D) -> (N, M)
        return a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.T

    def radii(a: Tensor) -> Tensor:
        # The nearest of all is the point itself, hence k + 1.
        return torch.cat([squared_distances(rows, a).kthvalue(k + 1, dim=1).values for rows in a.split(ROWS)])

    def covered(points: Tensor, centres: Tensor, reach: Tensor) -> float:
        inside = [(squared_distances(rows, centres) <= reach).any(dim=1) for rows in points.split(ROWS)]
        return float(torch.cat(inside).double().mean())

    return covered(y, x, radii(x)), covered(x, y, radii(y))


def peak_signal_to_noise(images: np.ndarray, copies: np.ndarray) -> float:
    """PSNR in decibels, 10 log10(255^2 / mean squared error), of uint8 images and their copies, (N, H, W, C) each.

    The mean of the images' own figures, as for autoencoders; an error below a thousandth of a grey level counts as one.
    """
    if images.shape != copies.shape:
        raise ValueError(f"images are {images.shape}, their copies {copies.shape}")
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(images, copies, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-6))))
