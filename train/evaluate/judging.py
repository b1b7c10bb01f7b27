"""From features to a report: the statistics of a reference, every figure by its name, a table."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.command import aligned
from train.evaluate import features, inception, metrics, sources
from train.evaluate.features import Features, Judge, cached
from train.files import open_arrays

JUDGES = ("efflite0", "inception")


def float64_device(device: str | torch.device) -> str:
    """Where to compute in float64: on `device` if it is a CUDA GPU, else on the CPU, for others may lack it."""
    return str(device) if torch.device(device).type == "cuda" else "cpu"


def open_judge(name: str, device: str | torch.device = "cpu") -> Judge:
    """The judge of a name in `JUDGES`; ImportError or OSError where its network is missing."""
    return features.EffLite0(device) if name == "efflite0" else inception.Inception(device)


@dataclass(frozen=True)
class ReferenceStatistics:
    """Real images as a judge sees them: means and covariances, and the features where the images are at hand."""

    pooled: metrics.FeatureStatistics
    spatial: metrics.FeatureStatistics
    features: Features | None = None

    @classmethod
    def of(cls, features: Features) -> "ReferenceStatistics":
        return cls(metrics.fit_statistics(features.pooled), metrics.fit_statistics(features.spatial), features)

    def halves(self) -> tuple["ReferenceStatistics", Features]:
        """One half of the images, drawn at chance, as a reference, and the other as images to be judged."""
        if self.features is None:
            raise ValueError("the reference is statistics without images: there are no halves to compare")
        order = np.random.default_rng(0).permutation(len(self.features))
        first, second = (self.features.select(half) for half in np.array_split(order, 2))
        return ReferenceStatistics.of(first), second


def open_reference(source: str, judge: Judge, data: Path, size: int | None = None) -> ReferenceStatistics:
    """The real images at `source`, see sources.py, through a judge; its features are kept in `data/features`.

    An npz may carry Inception's statistics as the ADM evaluator's references do (mu, sigma, mu_s, sigma_s: of the whole
    data set, while `arr_0` holds some of its images, or is missing). FID and sFID then are against these.

    Raises:
        ValueError: nothing fitting is there, or statistics of another network without images.
    """
    statistics = read_statistics(Path(source))
    of_images = None
    if statistics is None or "arr_0.npy" in zipfile.ZipFile(source).namelist():
        of_images = cached(data / "features", judge, sources.read(source, data, size).images, source)
    if statistics and judge.name == "Inception":
        return ReferenceStatistics(*statistics, of_images)
    if of_images is None:
        raise ValueError(f"{source} holds statistics of Inception and no images: judge with --judge inception")
    return ReferenceStatistics.of(of_images)


def read_statistics(path: Path) -> tuple[metrics.FeatureStatistics, metrics.FeatureStatistics] | None:
    """Statistics of pooled and spatial features that an npz carries; None where it carries none, or is no npz.

    Raises:
        ValueError: it carries some of them, or not a finite mean (D,) with a covariance (D, D), or is damaged.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with open_arrays(path) as file:
        arrays = {word: np.asarray(file[word], float) for word in ("mu", "sigma", "mu_s", "sigma_s") if word in file}
        if not arrays:
            return None
        if len(arrays) < 4:
            raise ValueError(f"it holds {', '.join(arrays)}: statistics are mu, sigma, mu_s and sigma_s")
        for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
            if arrays[mean].ndim != 1 or arrays[covariance].shape != 2 * arrays[mean].shape:
                shapes = f"{arrays[mean].shape} and {arrays[covariance].shape}"
                raise ValueError(f"{mean} and {covariance} must be (D,) and (D, D), got {shapes}")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("its statistics are not finite")
    tensors = [torch.from_numpy(array) for array in arrays.values()]
    return metrics.FeatureStatistics(*tensors[:2]), metrics.FeatureStatistics(*tensors[2:])


def figures(reference: ReferenceStatistics, generated: Features, judge: Judge, device: str = "cpu") -> dict[str, float]:
    """Every figure of `generated` against the reference, the least biased first.

    Args:
        reference: the real images.
        generated: features of the images to be judged, by the same judge.
        judge: its words name the figures.
        device: where to compute, in float64.
    """
    values = {}
    pooled, spatial = (torch.as_tensor(x, device=device) for x in (generated.pooled, generated.spatial))
    real = None if reference.features is None else torch.as_tensor(reference.features.pooled, device=device)
    if real is not None:
        kid = metrics.kernel_distance(real, pooled)
        values |= {"KID": kid.value, "KID error": kid.error}
    for word, real_statistics, x in (("FD", reference.pooled, pooled), ("sFD", reference.spatial, spatial)):
        values[word] = metrics.frechet_distance(real_statistics.to(device), metrics.fit_statistics(x))
    values["IS"] = metrics.inception_score(generated.probabilities)
    if real is not None:
        values["precision"], values["recall"] = metrics.precision_recall(real, pooled)
    return {figure_name(word, judge): value for word, value in values.items()}


def figure_name(figure: str, judge: Judge) -> str:
    """A figure's name in a judge's words: FD -> FD-EffLite0, or FID where the judge is Inception."""
    word, *rest = figure.split()
    return " ".join([judge.words.get(word, f"{word}-{judge.name}"), *rest])


def table(reports: list[dict]) -> str:
    """One row per set of images, one column per figure."""
    words = [word for word, value in reports[0].items() if isinstance(value, float)]
    rows = [["", *words]] + [[report["images"], *(f"{report[word]:.4f}" for word in words)] for report in reports]
    return "\n".join(aligned(rows, str.rjust))
