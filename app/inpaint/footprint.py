"""What will be repainted, drawn over the picture: the mask's soft edge, and the latent cells and tokens it touches."""

import numpy as np
from PIL import Image

from app.inpaint.masks import reduce
from app.inpaint.source_image import OPACITY, PAINT, fit_within
from mdt_core.pipeline.canvas import Canvas, fit_box, prepare

CELLS = (245, 158, 11)  # of what is repainted besides
LEGEND = "teal: new, fading in at its edge · amber: made anew, but not kept · lines: the tokens of both"


def small_canvas(
    image: Image.Image, mask: np.ndarray, side: int, size: int, *, area: str, grow: int, feather: int, cell: int
) -> Canvas:
    """The canvas of a picture scaled down to `side`, for what is only looked at. Arguments and errors: `fit_canvas`."""
    box = fit_box(mask, size, cell=cell, area=area, grow=grow)  # what is wrong shows at the picture's own size only
    small_size = fit_within(image.size, side)
    scale = max(small_size) / max(image.size)
    small = image.resize(small_size, Image.Resampling.LANCZOS, reducing_gap=2) if scale < 1 else image
    edges = {"grow": round(grow * scale), "feather": round(feather * scale)}
    return prepare(np.asarray(small), reduce(mask, small_size), size, box.scaled(scale), **edges)


def draw_footprint(canvas: Canvas, cells: int, tokens: int) -> Image.Image:
    """The picture with what is new (teal, fading in), what the model makes besides (amber), and the tokens of both.

    Args:
        canvas: of the size in which it is looked at.
        cells, tokens: along a side of the model's square.
    """
    view = canvas.picture.astype(np.float32)
    touched = canvas.footprint(cells, cells)
    new = np.zeros(touched.shape, np.float32)
    new[canvas.window] = canvas.opacity
    paint = OPACITY / 255
    view += np.where(touched & (new == 0), 0.35, 0)[..., None] * (np.float32(CELLS) - view)
    view += (paint * new)[..., None] * (np.float32(PAINT) - view)
    view[_token_lines(canvas, tokens)] = CELLS
    outline = (new > 0) & ~_shrink(new > 0)
    view[outline] = PAINT
    return Image.fromarray(view.round().astype(np.uint8))


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
