"""From features to a report: a reference to compare with, every figure by its name, a table, a plot of a sweep."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from train.evaluate import features, inception, metrics, samples
from train.evaluate.features import Features, Judge, cached
from train.evaluate.plots import Line, Panel, draw_panels

JUDGES = ("efflite0", "inception")


def float64_device(device: str | torch.device) -> str:
    """Where to compute in float64: on `device` if it is a CUDA GPU, else on the CPU, for others may lack it."""
    return str(device) if torch.device(device).type == "cuda" else "cpu"


def open_judge(name: str, device: str | torch.device = "cpu") -> Judge:
    """The judge of a name in `JUDGES`; ImportError or OSError where its network is missing."""
    return features.EffLite0(device) if name == "efflite0" else inception.Inception(device)


@dataclass(frozen=True)
class Reference:
    """Real images as a judge sees them: Gaussians of its features, and the features themselves where they are known."""

    pooled: metrics.Gaussian
    spatial: metrics.Gaussian
    seen: Features | None = None

    @classmethod
    def of(cls, seen: Features) -> "Reference":
        return cls(metrics.fit_gaussian(seen.pooled), metrics.fit_gaussian(seen.spatial), seen)

    def halves(self) -> tuple["Reference", Features]:
        """One half of the images, drawn at chance, as a reference, and the other as images to be judged."""
        if self.seen is None:
            raise ValueError("the reference is statistics without images: there are no halves to compare")
        order = np.random.default_rng(0).permutation(len(self.seen))
        one, other = (self.seen.take(half) for half in np.array_split(order, 2))
        return Reference.of(one), other


def open_reference(source: str, judge: Judge, data: Path) -> Reference:
    """The real images at `source`, see `samples.read`, through a judge; what it saw is kept in `data/features`.

    An npz may carry Inception's statistics as the ADM evaluator's references do (mu, sigma, mu_s, sigma_s: of the whole
    data set, while `arr_0` holds some of its images, or is missing). FID and sFID then are against these.

    Raises:
        ValueError: nothing fitting is there, or statistics of another network without images.
    """
    statistics = read_statistics(Path(source))
    known = None
    if statistics is None or "arr_0.npy" in zipfile.ZipFile(source).namelist():
        known = cached(data / "features", judge, samples.read(source, data).images, source)
    if statistics and judge.name == "Inception":
        return Reference(*statistics, known)
    if known is None:
        raise ValueError(f"{source} holds statistics of Inception and no images: judge with --judge inception")
    return Reference.of(known)


def read_statistics(path: Path) -> tuple[metrics.Gaussian, metrics.Gaussian] | None:
    """Gaussians of pooled and spatial features that an npz carries; None where it carries none, or is no npz.

    Raises:
        ValueError: it carries some of them, or not a mean (D,) with a covariance (D, D).
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with np.load(path) as arrays:  # refuses pickled objects
        found = {word: arrays[word] for word in ("mu", "sigma", "mu_s", "sigma_s") if word in arrays}
    if not found:
        return None
    if len(found) < 4:
        raise ValueError(f"{path} holds {', '.join(found)}: statistics are mu, sigma, mu_s and sigma_s")
    for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if found[mean].ndim != 1 or found[covariance].shape != 2 * found[mean].shape:
            shapes = f"{found[mean].shape} and {found[covariance].shape}"
            raise ValueError(f"{mean} and {covariance} of {path} must be (D,) and (D, D), got {shapes}")
    tensors = [torch.as_tensor(array).double() for array in found.values()]
    return metrics.Gaussian(*tensors[:2]), metrics.Gaussian(*tensors[2:])


def figures(real: Reference, seen: Features, judge: Judge, device: str = "cpu") -> dict[str, float]:
    """Every figure of `seen` against `real`, the least biased first, each under its name in this judge's words.

    Args:
        real: the reference.
        seen: features of the images to be judged, from the same judge.
        judge: gives the figures their names.
        device: where to compute, in float64.
    """
    found = {}
    pooled, spatial = (torch.as_tensor(x, device=device) for x in (seen.pooled, seen.spatial))
    if real.seen is not None:
        others = torch.as_tensor(real.seen.pooled, device=device)
        kid = metrics.kernel_distance(others, pooled)
        found |= {"KID": kid.value, "KID error": kid.error}
    for word, gaussian, own in (("FD", real.pooled, pooled), ("sFD", real.spatial, spatial)):
        gaussian = metrics.Gaussian(gaussian.mean.to(device), gaussian.covariance.to(device))
        found[word] = metrics.frechet_distance(gaussian, metrics.fit_gaussian(own))
    found["IS"] = metrics.inception_score(seen.probabilities)
    if real.seen is not None:
        found["precision"], found["recall"] = metrics.precision_recall(others, pooled)
    return {named(word, judge): value for word, value in found.items()}


def named(figure: str, judge: Judge) -> str:
    """A figure's name in a judge's words: FD -> FD-EffLite0, or FID where the judge is Inception."""
    word, *rest = figure.split()
    return " ".join([judge.words.get(word, f"{word}-{judge.name}"), *rest])


def table(reports: list[dict]) -> str:
    """One row per set of images, one column per figure."""
    words = [word for word, value in reports[0].items() if isinstance(value, float)]
    rows = [["", *words]] + [[report["images"], *(f"{report[word]:.4f}" for word in words)] for report in reports]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def plot_sweep(reports: list[dict], word: str, setting: str) -> Image.Image:
    """Distances against precision and against recall, a point for each value of a setting: the trade that it makes.

    Raises:
        ValueError: the reference had no images, so there is neither KID nor precision nor recall.
    """
    figure = {name.split("-")[0]: name for name in reports[0] if not name.endswith("error")}
    if "recall" not in figure:
        raise ValueError("the reference is statistics without images: no precision and recall to plot against")
    words = [f"{report[setting]:g}" for report in reports]
    panels = []
    for distance in ("KID", "FID" if "FID" in figure else "FD"):
        for share in ("precision", "recall"):
            x, y = ([report[figure[name]] for report in reports] for name in (share, distance))
            panels.append(Panel(figure[share], figure[distance], [Line(word, x, y, words=words)]))
    return draw_panels(panels)
