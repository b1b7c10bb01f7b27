"""Painting a mask: the picture stays on the server, the browser's editor shows a copy and holds the mask as a layer.

The editor works on at most DISPLAY_SIDE pixels, so that a photo of 8192 does not have to fit into a browser's canvas
and back again at every stroke; and what is not repainted never passes through it, so that known pixels stay exact.

    upload -> Easel -> editor_value() -> brush, eraser -> mask_of() -> Easel.mask() -> pipeline

Masks are bool arrays (H, W), true where to repaint.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from app.common.images import MAX_PIXELS, open_header, open_image
from mdt_core.pipeline.canvas import MIN_SIDE, Canvas, fit_box, prepare
from mdt_core.pipeline.image_arrays import mask_array

DISPLAY_SIDE = 1024  # pixels of the editor's longer side
PAINT = (20, 184, 166)  # the page's teal
OPACITY = 153  # of the paint, so that the picture shows through
CELLS = (245, 158, 11)  # of what is repainted besides


class Easel:
    """The picture at work, in a temporary folder that disappears together with this object.

    ValueError where it has fewer than MIN_SIDE pixels along a side.
    """

    def __init__(self, picture: Image.Image, name: str = "picture"):
        self.name = name  # of files made from it
        self.size = picture.size  # (W, H) pixels
        if min(self.size) < MIN_SIDE:
            width, height = self.size
            raise ValueError(
                f"The picture has {width} x {height} pixels: it takes at least {MIN_SIDE} along each side."
            )
        self._folder = TemporaryDirectory(prefix="mdt-studio-")
        picture.save(self._file("picture"))
        self.shown = shown_size(self.size, DISPLAY_SIDE)  # (W, H) pixels of the copy in the editor
        picture.resize(self.shown, Image.Resampling.LANCZOS).save(self._file("display"))
        self._laid: bytes | None = None  # PNG

    def picture(self) -> Image.Image:
        """The picture itself, RGB."""
        return Image.open(self._file("picture"))

    def display(self) -> Image.Image:
        """The copy that the editor shows, RGB."""
        return Image.open(self._file("display"))

    def lay(self, mask: np.ndarray | None) -> np.ndarray:
        """Take a mask of the picture's own size, (H, W), or none -> what the editor shows of it, (h, w)."""
        self._laid = None if mask is None else mask_png(mask)
        return mask_of(None, self.shown) if mask is None else reduce(mask, self.shown)

    def mask(self, painted: np.ndarray) -> np.ndarray:
        """The editor's mask (h, w) at the picture's own size, (H, W).

        The mask that was laid keeps its pixels, but where it was erased; what was painted is as wide as it was shown.
        """
        shown = enlarge(painted, self.size)
        if self._laid is None:
            return shown
        laid = read_mask(self._laid)
        return laid & shown | enlarge(painted & ~reduce(laid, self.shown), self.size)

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.bmp"  # not compressed: a large picture is saved in a second


def shown_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(W, H) scaled down to `side` along the longer side, but with MIN_SIDE or more along the shorter one."""
    scale = min(1, side / max(size))
    return max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale))


def mask_of(value: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray:
    """What is painted in an ImageEditor's value (type "pil"): wherever any layer is not fully transparent.

    The value may be None, and its layers missing, empty, fully transparent or of another size than `size` (W, H).
    """
    mask = np.zeros(size[::-1], bool)
    for layer in (value or {}).get("layers") or []:
        mask |= np.asarray(layer.convert("RGBA").getchannel("A").resize(size, Image.Resampling.NEAREST)) > 0
    return mask


def editor_value(display: Image.Image, mask: np.ndarray) -> dict[str, Any]:
    """A picture and a mask of its size as an ImageEditor's value."""
    layer = Image.new("RGBA", display.size, (*PAINT, 0))
    layer.putalpha(to_image(mask).point(lambda value: OPACITY if value else 0))
    return {"background": display, "layers": [layer] if mask.any() else [], "composite": None}


def open_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """An uploaded mask, white where to repaint; transparency counts as black. ValueError unless it has `size`."""
    mask, header = open_image(path), open_header(path)  # the first refuses what is damaged, and lays it on white
    if header.has_transparency_data:
        mask = ImageOps.exif_transpose(header)
    if mask.size != size:
        (width, height), (wanted_width, wanted_height) = mask.size, size
        raise ValueError(
            f"The mask has {width} x {height} pixels, the picture {wanted_width} x {wanted_height}: "
            "make them the same size."
        )
    return mask_array(mask)


def to_image(mask: np.ndarray) -> Image.Image:
    """A mask as a picture of mode "L": white where to repaint."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def mask_png(mask: np.ndarray) -> bytes:
    """A mask as a PNG of one bit a pixel."""
    buffer = io.BytesIO()
    to_image(mask).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


def read_mask(data: bytes) -> np.ndarray:
    """The mask of `mask_png`. ValueError where it has more than MAX_PIXELS; a decoder's errors as they come."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"a mask of {image.width} x {image.height} pixels is too large")
    return np.asarray(image.convert("L")) > 127


def enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The editor's mask at the picture's own size (W, H)."""
    rows, columns = (_nearest(large, small) for large, small in zip(size[::-1], mask.shape, strict=True))
    return mask[rows][:, columns]


def reduce(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture's mask at a smaller size (W, H): neither a thin stroke nor a small rest is lost."""
    if mask.shape == size[::-1]:
        return mask
    count = mask
    for axis, small in enumerate(size[::-1]):
        starts = np.searchsorted(_nearest(mask.shape[axis], small), np.arange(small))
        count = np.add.reduceat(count, starts, axis, dtype=np.uint32)
    shown = count > 0
    if shown.all() and not mask.all():
        shown[np.unravel_index(count.argmin(), count.shape)] = False
    return shown


def _nearest(large: int, small: int) -> np.ndarray:
    """For each of `large` pixels in a row, which of the `small` ones in its place it lies in; ascending."""
    return (2 * np.arange(large) + 1) * small // (2 * large)


def small_canvas(
    picture: Image.Image, mask: np.ndarray, side: int, size: int, *, area: str, grow: int, feather: int, cell: int
) -> Canvas:
    """The canvas of a picture scaled down to `side`, for what is only looked at. Arguments and errors: `fit_canvas`."""
    box = fit_box(mask, size, cell=cell, area=area, grow=grow)  # what is wrong shows at the picture's own size only
    shown = shown_size(picture.size, side)
    scale = max(shown) / max(picture.size)
    small = np.asarray(picture.resize(shown, Image.Resampling.LANCZOS, reducing_gap=2) if scale < 1 else picture)
    edges = {"grow": round(grow * scale), "feather": round(feather * scale)}
    return prepare(small, reduce(mask, shown), size, box.scaled(scale), **edges)


def footprint_view(canvas: Canvas, cells: int, tokens: int) -> Image.Image:
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
