"""Masks to inpaint under: bool, true where to repaint. Letters: N pictures, S their side in pixels."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from mdt_core.pipeline.canvas import fit_canvas

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
