"""Masks: bool arrays (H, W), true where to repaint; opened, written, and brought to another size without loss."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from app.common.images import MAX_PIXELS, decoding, open_header, open_image
from mdt_core.pipeline.image_arrays import mask_array


def open_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """An uploaded mask, white where to repaint; transparency counts as black. ValueError unless it has `size`."""
    mask, header = open_image(path), open_header(path)  # the first refuses what is damaged, and lays it on white
    if header.has_transparency_data:
        with decoding():
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
    """A mask at a larger size (W, H): each of its pixels becomes the block in its place."""
    rows, columns = (_nearest(large, small) for large, small in zip(size[::-1], mask.shape, strict=True))
    return mask[rows][:, columns]


def reduce(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at a smaller size (W, H): neither a thin stroke nor a small rest is lost."""
    if mask.shape == size[::-1]:
        return mask
    count = mask
    for axis, small in enumerate(size[::-1]):
        starts = np.searchsorted(_nearest(mask.shape[axis], small), np.arange(small))
        count = np.add.reduceat(count, starts, axis, dtype=np.uint32)
    touched = count > 0
    if touched.all() and not mask.all():
        touched[np.unravel_index(count.argmin(), count.shape)] = False
    return touched


def _nearest(large: int, small: int) -> np.ndarray:
    """For each of `large` pixels in a row, which of the `small` ones in its place it lies in; ascending."""
    return (2 * np.arange(large) + 1) * small // (2 * large)
