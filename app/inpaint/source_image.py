"""The picture to inpaint: it stays on the server, the browser paints on a copy, and sends the mask alone.

The copy has at most DISPLAY_SIDE pixels, so that a photo of 8192 does not have to fit into a browser's canvas; up to
that size the mask is the picture's own. What is not repainted never leaves the server, so that known pixels stay exact.

    upload -> SourceImage -> Painter.show() -> brush, eraser -> mask_of() -> pipeline
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gradio.components import Component
from PIL import Image

from app.common.images import decode, decoding, open_header, publish, to_png
from app.inpaint.masks import enlarge, mask_png, read_mask, reduce
from mdt_core.pipeline.canvas import MIN_SIDE

DISPLAY_SIDE = 2048  # pixels of the copy's longer side


class SourceImage:
    """A picture, its copy for the browser and the mask that was set, in a folder that disappears with this object.

    ValueError where it has fewer than MIN_SIDE pixels along a side.
    """

    def __init__(self, image: Image.Image, name: str = "picture", path: str | None = None):
        self.name = name  # of files made from it
        self.path = path  # of the file that it was opened from
        self.size = image.size  # (W, H) pixels
        if min(self.size) < MIN_SIDE:
            width, height = self.size
            raise ValueError(
                f"The picture has {width} x {height} pixels: it takes at least {MIN_SIDE} along each side."
            )
        self._folder = TemporaryDirectory(prefix="mdt-studio-")
        image.save(self._file("image.bmp"))  # not compressed: a large picture is saved in a second
        self.display_size = fit_within(self.size, DISPLAY_SIDE)  # (W, H) pixels of the copy
        copy = image.resize(self.display_size, Image.Resampling.LANCZOS)
        self._file("display.png").write_bytes(to_png(copy))  # as it is sent: at every mask, and after every run
        self._mask: bytes | None = None  # the one that was set, as a PNG

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> "SourceImage":
        """A picture from a file, called by it unless there is a name. ValueError as for `open_image`, too."""
        header = open_header(path)
        with decoding():  # until its pixels lie in a file
            return cls(decode(header), name or Path(path).stem, str(path))

    def image(self) -> Image.Image:
        """The picture itself, RGB."""
        return Image.open(self._kept("image.bmp"))

    def display(self) -> Image.Image:
        """The copy, RGB."""
        return Image.open(self._kept("display.png"))

    def publish_display(self, at: Component) -> str:
        """The copy as a file that the browser can fetch where `at` serves its files from; the path."""
        return publish(self._kept("display.png").read_bytes(), "display", at)

    def set_mask(self, mask: np.ndarray | None) -> np.ndarray:
        """Take a mask of the picture's own size (H, W), or none -> what is shown of it, (h, w)."""
        self._mask = None if mask is None else mask_png(mask)
        return np.zeros(self.display_size[::-1], bool) if mask is None else reduce(mask, self.display_size)

    def mask(self, painted: np.ndarray) -> np.ndarray:
        """What is painted on the copy, (h, w), at the picture's own size, (H, W).

        The mask that was set keeps its pixels, but where it was erased; what was painted is as wide as it was seen.
        """
        seen = enlarge(painted, self.size)
        if self._mask is None:
            return seen
        before = read_mask(self._mask)
        return before & seen | enlarge(painted & ~reduce(before, self.display_size), self.size)

    def _kept(self, name: str) -> Path:
        """A file that was written. ValueError where it had to make room for others'."""
        path = self._file(name)
        if not path.is_file():
            raise ValueError("The picture was open for long and is no more kept here: open it again.")
        return path

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name


def fit_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(W, H) scaled down to `side` along the longer side, but with MIN_SIDE or more along the shorter one."""
    scale = min(1, side / max(size))
    return max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale))
