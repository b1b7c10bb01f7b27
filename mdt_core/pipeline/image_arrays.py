"""Pictures and masks of any kind, PIL's or arrays -> (H, W, 3) uint8 and (H, W) bool; a model's pixels -> uint8."""

import numpy as np
from PIL import Image
from torch import Tensor

Picture = Image.Image | np.ndarray


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: transparency on white, 16 bits -> 8, other colour spaces converted."""
    return _eight_bits(image, "white").convert("RGB")


def picture_array(image: Picture) -> np.ndarray:
    """A PIL picture of any mode, or uint8 (H, W), (H, W, 3) or (H, W, 4) -> (H, W, 3) uint8; transparency on white.

    Raises:
        ValueError: an array of another kind.
    """
    return np.asarray(to_rgb(image if isinstance(image, Image.Image) else _as_image(image, "picture")))


def mask_array(mask: Picture) -> np.ndarray:
    """A mask -> (H, W) bool: true where it is white (from half-way up), and where it is transparent it is black.

    Args:
        mask: a PIL picture of any mode, or an array (H, W), (H, W, 3) or (H, W, 4): bool, floats from 0 to 1, or
            whole numbers from 0 to 255 or of 0 and 1 alone.

    Raises:
        ValueError: an array of another kind.
    """
    if not isinstance(mask, Image.Image):
        mask = np.asarray(mask)
        if mask.dtype == bool and mask.ndim == 2:
            return mask
        if mask.dtype.kind in "biuf" and mask.size and 0 <= mask.min() <= mask.max() <= 1:
            mask = np.rint(mask.astype(np.float32) * 255)
        whole = mask.dtype.kind in "biuf" and mask.size and mask.min() >= 0 and mask.max() <= 255
        mask = _as_image(mask.astype(np.uint8) if whole else mask, "mask")
    return np.asarray(_eight_bits(mask, "black").convert("L")) > 127


def to_uint8(pixels: Tensor) -> np.ndarray:
    """A model's pixels (3, H, W), about [-1, 1] -> (H, W, 3) uint8."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def to_pil(pixels: Tensor) -> Image.Image:
    """A model's pixels (3, H, W), about [-1, 1] -> PIL RGB."""
    return Image.fromarray(to_uint8(pixels))


def _eight_bits(image: Image.Image, ground: str) -> Image.Image:
    """16 bits -> 8, and transparency laid on a ground."""
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion would clip at 255
        fraction = image.mode == "F" and image.getextrema()[1] <= 1  # 0..1, else 16-bit numbers
        image = image.convert("F").point(lambda value: value * (255 if fraction else 1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image


def _as_image(array: np.ndarray, what: str) -> Image.Image:
    array = np.asarray(array)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        kinds = "(H, W), (H, W, 3) or (H, W, 4) of uint8"
        raise ValueError(f"the {what} must be a PIL image or an array {kinds}, not {array.shape} of {array.dtype}")
    return Image.fromarray(array)
