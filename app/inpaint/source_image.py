"""The picture to inpaint: it stays on the server, the browser's editor shows a copy and holds the mask as a layer.

The editor works on at most DISPLAY_SIDE pixels, so that a photo of 8192 does not have to fit into a browser's canvas
and back again at every stroke; and what is not repainted never passes through it, so that known pixels stay exact.

    upload -> SourceImage -> editor_value() -> brush, eraser -> painted_mask() -> SourceImage.mask() -> pipeline
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from app.common.images import open_image
from app.inpaint.masks import enlarge, mask_png, read_mask, reduce, to_image
from mdt_core.pipeline.canvas import MIN_SIDE

DISPLAY_SIDE = 1024  # pixels of the editor's longer side
PAINT = (20, 184, 166)  # the page's teal
OPACITY = 153  # of the paint, so that the picture shows through


class SourceImage:
    """A picture, its copy for the editor and the mask that was set, in a folder that disappears with this object.

    ValueError where it has fewer than MIN_SIDE pixels along a side.
    """

    def __init__(self, image: Image.Image, name: str = "picture"):
        self.name = name  # of files made from it
        self.size = image.size  # (W, H) pixels
        if min(self.size) < MIN_SIDE:
            width, height = self.size
            raise ValueError(
                f"The picture has {width} x {height} pixels: it takes at least {MIN_SIDE} along each side."
            )
        self._folder = TemporaryDirectory(prefix="mdt-studio-")
        image.save(self._file("image"))
        self.display_size = fit_within(self.size, DISPLAY_SIDE)  # (W, H) pixels of the editor's copy
        image.resize(self.display_size, Image.Resampling.LANCZOS).save(self._file("display"))
        self._mask: bytes | None = None  # the one that was set, as a PNG

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> "SourceImage":
        """A picture from a file, called by it unless there is a name. ValueError as for `open_image`, too."""
        return cls(open_image(path), name or Path(path).stem)

    def image(self) -> Image.Image:
        """The picture itself, RGB."""
        return Image.open(self._file("image"))

    def display(self) -> Image.Image:
        """The editor's copy, RGB."""
        return Image.open(self._file("display"))

    def set_mask(self, mask: np.ndarray | None) -> np.ndarray:
        """Take a mask of the picture's own size (H, W), or none -> what the editor shows of it, (h, w)."""
        self._mask = None if mask is None else mask_png(mask)
        return painted_mask(None, self.display_size) if mask is None else reduce(mask, self.display_size)

    def mask(self, painted: np.ndarray) -> np.ndarray:
        """The editor's mask (h, w) at the picture's own size, (H, W).

        The mask that was set keeps its pixels, but where it was erased; what was painted is as wide as it was seen.
        """
        seen = enlarge(painted, self.size)
        if self._mask is None:
            return seen
        before = read_mask(self._mask)
        return before & seen | enlarge(painted & ~reduce(before, self.display_size), self.size)

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.bmp"  # not compressed: a large picture is saved in a second


def fit_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(W, H) scaled down to `side` along the longer side, but with MIN_SIDE or more along the shorter one."""
    scale = min(1, side / max(size))
    return max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale))


def painted_mask(value: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray:
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
