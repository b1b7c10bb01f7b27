"""Masks to inpaint under, and figures of what was painted into them: pure functions of arrays.

Masks are bool, true where to repaint; pictures uint8. Letters: N pictures, S their side in pixels.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from mdt_core.pipeline.canvas import fit_canvas
from train.evaluate.features import Features
from train.evaluate.metrics import Estimate

MASKS = ("box", "half", "strokes")
STROKE_MASKS = 8  # different ones, each shared by a run of pictures


def draw_masks(kind: str, count: int, size: int) -> np.ndarray:
    """(count, size, size): the centre box of a quarter of the area, the right half, or strokes on 20-60%."""
    masks = np.zeros((count, size, size), bool)
    if kind == "box":
        masks[:, size // 4 : size - size // 4, size // 4 : size - size // 4] = True
    elif kind == "half":
        masks[:, :, size // 2 :] = True
    else:
        rng = np.random.default_rng(0)
        for run in np.array_split(np.arange(count), STROKE_MASKS):
            masks[run] = draw_strokes(rng, size)
    return masks


def draw_strokes(rng: np.random.Generator, size: int, least: float = 0.2, most: float = 0.6) -> np.ndarray:
    """(size, size): strokes of a brush, one after the other until a random share from `least` to `most` is covered."""
    while True:
        image, wanted = Image.new("1", (size, size)), rng.uniform(least, most)
        pen = ImageDraw.Draw(image)
        while np.asarray(image).mean() < wanted:
            width = int(rng.uniform(size / 16, size / 6))
            points = rng.uniform(0, size, 2) + rng.normal(0, size / 5, (4, 2)).cumsum(0)
            pen.line([tuple(point) for point in points.tolist()], fill=1, width=width, joint="curve")
        if np.asarray(image).mean() <= most:
            return np.array(image)


def grown(masks: np.ndarray, grow: int) -> np.ndarray:
    """Masks (N, S, S) dilated by `grow` pixels, as `mdt_core.pipeline.canvas` does it."""
    result, blank = np.empty_like(masks), np.zeros((*masks.shape[1:], 3), np.uint8)
    for run in batches(masks, len(masks)):
        result[run] = fit_canvas(blank, masks[run.start], masks.shape[1], cell=1, grow=grow, feather=0).reach()
    return result


def batches(masks: np.ndarray, size: int) -> Iterator[slice]:
    """Runs of at most `size` pictures that share one mask."""
    start = 0
    for end in range(1, len(masks) + 1):
        if end == len(masks) or end - start == size or (masks[end] != masks[start]).any():
            yield slice(start, end)
            start = end


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
    seen, real = border_jumps(results, masks), border_jumps(originals, masks)
    ratio = seen.sum() / real.sum()
    return Estimate(float(ratio), float(np.sqrt(np.square(seen - ratio * real).sum()) / real.sum()))


def hole_distance(seen: Features, real: Features, masks: np.ndarray, side: int = 8) -> float:
    """Root mean square distance of feature maps inside the hole to the original's, over that to the next original's.

    Args:
        seen: features of the results.
        real: features of the originals.
        masks: (N, S, S).
        side: of the maps that `Features.spatial` holds; a cell counts by the share of it that is in the hole.
    """
    n, size = masks.shape[:2]
    share = masks.reshape(n, side, size // side, side, size // side).mean((2, 4))  # (N, side, side)
    results, originals = (x.spatial.reshape(n, -1, side, side) for x in (seen, real))
    to_own = np.square(results - originals).sum(1)
    to_next = np.square(np.roll(originals, 1, axis=0) - originals).sum(1)
    return float(np.sqrt((to_own * share).sum() / (to_next * share).sum()))


def outside_difference(results: np.ndarray, originals: np.ndarray, masks: np.ndarray) -> int:
    """Largest difference outside the masks, in grey levels."""
    return int(np.abs(results.astype(int) - originals)[~masks].max())
