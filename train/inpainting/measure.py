"""Results of inpainting methods -> figures, and a grid to look at.

Letters: N pictures, S their side in pixels. Figures of each method on each kind of mask:

    KID, error   of the results against real pictures, with its standard error
    excess       that KID less the one of the untouched pictures, which is the floor of real against real
    distance     root mean square feature distance to the original inside the hole; 1: as far as another picture
    seam, error  squared jump across the grown mask's border, where new pixels end, over that of the originals at the
                 same place; 1 is ideal
    inner seam   the same across the border of the mask as it was painted
    outside      largest difference to the original outside the grown mask, in grey levels: must be 0
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mdt_core.pipeline.labelled_grid import LabelledGrid
from train.evaluate.features import Features, Judge, cached
from train.evaluate.metrics import Estimate, kernel_distance
from train.inpainting.masks import grown

SIDE = 128  # px of a picture in the grid; a smaller one is enlarged by a whole factor

Masks = dict[str, np.ndarray]  # kind of mask -> (N, S, S) bool
Results = dict[tuple[str, str], np.ndarray]  # method, kind of mask -> (N, S, S, 3) uint8


def border_jumps(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Sum of the squared differences across each mask's border: (N, S, S, 3), (N, S, S) -> (N,)."""
    jumps = np.zeros(len(images))
    for axis in (1, 2):
        across = np.diff(masks.astype(np.int8), axis=axis) != 0
        squared = np.square(np.diff(images.astype(np.float64), axis=axis)).sum(-1)
        jumps += (squared * across).sum((1, 2))
    return jumps


def seam_ratio(results: np.ndarray, originals: np.ndarray, masks: np.ndarray) -> Estimate:
    """Jumps across the border over those of the originals at the same place, of all pictures together; 1 is ideal.

    The standard error is that of a ratio of two means, pictures drawn at random.
    """
    jumps, ideal = border_jumps(results, masks), border_jumps(originals, masks)
    ratio = jumps.sum() / ideal.sum()
    return Estimate(float(ratio), float(np.sqrt(np.square(jumps - ratio * ideal).sum()) / ideal.sum()))


def hole_distance(results: Features, originals: Features, masks: np.ndarray, side: int = 8) -> float:
    """Root mean square distance of feature maps inside the hole to the original's, over that to the next original's.

    Args:
        results: features of the results.
        originals: features of the originals.
        masks: (N, S, S).
        side: of the maps that `Features.spatial` holds; a cell counts by the share of it that is in the hole.
    """
    n, size = masks.shape[:2]
    share = masks.reshape(n, side, size // side, side, size // side).mean((2, 4))  # (N, side, side)
    result, original = (x.spatial.reshape(n, -1, side, side) for x in (results, originals))
    to_own = np.square(result - original).sum(1)
    to_next = np.square(np.roll(original, 1, axis=0) - original).sum(1)
    return float(np.sqrt((to_own * share).sum() / (to_next * share).sum()))


def outside_difference(results: np.ndarray, originals: np.ndarray, masks: np.ndarray) -> int:
    """Largest difference outside the masks, in grey levels; 0 where nothing is outside."""
    return int(np.abs(results.astype(int) - originals)[~masks].max(initial=0))


@dataclass(frozen=True)
class Measure:
    """What results are measured against."""

    judge: Judge
    real: np.ndarray  # (M, D) pooled features of the real pictures
    originals: np.ndarray  # (N, S, S, 3) uint8
    features: Features  # of the originals
    grow: int  # pixels by which a mask is dilated
    cache: Path  # folder of the results' features

    def figures(self, images: np.ndarray, mask: np.ndarray, name: str) -> dict[str, float]:
        """The figures of results (N, S, S, 3) under masks (N, S, S)."""
        features, outer = cached(self.cache, self.judge, images, name), grown(mask, self.grow)
        kid = kernel_distance(self.real, features.pooled)
        floor = kernel_distance(self.real, self.features.pooled)
        seam = seam_ratio(images, self.originals, outer)
        return {
            f"KID-{self.judge.name}": kid.value,
            "error": kid.error,
            "excess": kid.value - floor.value,
            "distance": hole_distance(features, self.features, mask),
            "seam": seam.value,
            "seam error": seam.error,
            "inner seam": seam_ratio(images, self.originals, mask).value,
            "outside": float(outside_difference(images, self.originals, outer)),
        }

    def rows(self, results: Results, masks: Masks) -> list[dict]:
        """Figures of the untouched pictures, each method on each kind of mask, and each method's mean over them."""
        rows = [{"images": "real"} | self.figures(self.originals, next(iter(masks.values())), "originals")]
        for method in dict.fromkeys(method for method, _ in results):
            of_kinds = [self.figures(results[method, kind], masks[kind], f"{method}, {kind}") for kind in masks]
            rows += [{"images": f"{method}, {kind}"} | row for kind, row in zip(masks, of_kinds, strict=True)]
            mean = {word: float(np.mean([row[word] for row in of_kinds])) for word in of_kinds[0]}
            rows.append({"images": f"{method}, mean"} | mean | {"outside": max(row["outside"] for row in of_kinds)})
        return rows


def draw_grid(originals: np.ndarray, masks: Masks, results: Results, per_kind: int = 4) -> LabelledGrid:
    """A few pictures of each kind of mask, one a row: original, masked, and each method."""
    methods, rows = list(dict.fromkeys(method for method, _ in results)), []
    for kind in masks:
        for i in np.linspace(0, len(originals) - 1, per_kind).astype(int):
            masked = np.where(masks[kind][i, ..., None], np.uint8(127), originals[i])
            rows.append([originals[i], masked, *(results[method, kind][i] for method in methods)])
    cells = [[Image.fromarray(picture) for picture in row] for row in rows]
    side = originals.shape[1] * max(1, SIDE // originals.shape[1])
    labels = ["original", "masked", *methods]
    return LabelledGrid(cells, (side, side), column_labels=labels, resample=Image.Resampling.NEAREST)
