"""What will be repainted, drawn to lie over the picture: the mask's soft edge, the cells and tokens it touches."""

import numpy as np
from PIL import Image

from mdt_core.pipeline.canvas import Canvas, fit_box

PAINT = (20, 184, 166)  # the page's teal
CELLS = (245, 158, 11)  # of what is repainted besides
LEGEND = "Teal: new, fading in at its edge · amber: drawn along, but not kept · lines: the model's own grid"


def gains_detail(mask: np.ndarray, picture: tuple[int, int], size: int, area: str, grow: int) -> bool:
    """Whether a square around the mask only would show the model of size S twice the detail that it sees, or more.

    Args:
        mask: (h, w) bool, on the picture or a copy scaled down.
        picture: (W, H) pixels, in which `grow` is given, too.
    """
    scale = max(mask.shape) / max(picture)
    try:
        around = fit_box(mask, max(1, round(size * scale)), cell=1, area="masked", grow=round(grow * scale))
    except ValueError:  # nothing is masked, or all
        return False
    seen = {"whole": max(picture), "crop": min(picture)}.get(area, 0)
    return seen * scale >= 2 * around.side


def draw_footprint(canvas: Canvas, cells: int, tokens: int) -> Image.Image:
    """RGBA, clear where nothing changes: what is new (teal, fading in), what is made besides (amber), their tokens.

    Args:
        canvas: of the size in which it is looked at.
        cells, tokens: along a side of the model's square.
    """
    touched = canvas.footprint(cells, cells)
    new = np.zeros(touched.shape, np.float32)
    new[canvas.window] = canvas.opacity
    view = np.zeros((*touched.shape, 4), np.uint8)
    view[touched & (new == 0)] = (*CELLS, 90)
    view[new > 0] = (*PAINT, 0)
    view[..., 3] += (153 * new).round().astype(np.uint8)
    view[_token_lines(canvas, tokens)] = (*CELLS, 255)
    view[(new > 0) & ~_shrink(new > 0)] = (*PAINT, 255)
    return Image.fromarray(view)


def _token_lines(canvas: Canvas, tokens: int) -> np.ndarray:
    """(H, W) bool: the edges of the tokens that are touched, on the first pixels of a token and of the one after it."""
    starts = (canvas.box.top, canvas.box.left)
    rows, columns = (
        np.diff((np.arange(-1, length) - start) * tokens // canvas.box.side) > 0
        for length, start in zip(canvas.picture.shape, starts, strict=False)
    )
    near = canvas.footprint(tokens, tokens)
    near[1:] |= near[:-1].copy()
    near[:, 1:] |= near[:, :-1].copy()
    return near & (rows[:, None] | columns)


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Without its outermost pixels."""
    padded = np.pad(mask, 1, mode="edge")
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
