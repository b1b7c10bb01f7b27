"""Pictures and masks of any kind, PIL's or arrays -> (H, W, 3) uint8 and (H, W) bool; a model's pixels -> uint8."""

from collections.abc import Callable
from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, ImageCms
from torch import Tensor

Picture = Image.Image | np.ndarray

STRIP_PIXELS = 2**22  # of a picture that are converted at once


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode and colour profile -> sRGB, which what comes out needs no profile to say; transparency on white.

    A picture that is all this already comes back itself.
    """
    image = _eight_bits(image)
    if image.mode == "RGB" and not image.has_transparency_data and "icc_profile" not in image.info:
        return image
    return _in_strips(image, "RGB", lambda rows: _flat(_to_srgb(rows), "white").convert("RGB"))


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
    return np.asarray(_in_strips(_eight_bits(mask), "L", lambda rows: _flat(rows, "black").convert("L"))) > 127


def to_uint8(pixels: Tensor) -> np.ndarray:
    """A model's pixels (3, H, W), about [-1, 1] -> (H, W, 3) uint8."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def to_pil(pixels: Tensor) -> Image.Image:
    """A model's pixels (3, H, W), about [-1, 1] -> PIL RGB."""
    return Image.fromarray(to_uint8(pixels))


def _eight_bits(image: Image.Image) -> Image.Image:
    """More than 8 bits, and floats, -> 8. They go up to 1, to 255 or to 65,535, which their largest value tells."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    most = image.getextrema()[1]
    scale = 255 if most <= 1 else 1 if most <= 255 else 1 / 257
    # PIL's own conversion would clip at 255.
    return _in_strips(image, "L", lambda rows: rows.convert("F").point(lambda value: value * scale + 0.5).convert("L"))


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture in another mode, a strip at a time: what converts it may need several copies of what it is given."""
    converted = Image.new(mode, image.size)
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(strip), (0, top))
    return converted


def _to_srgb(image: Image.Image) -> Image.Image:
    """A picture of a colour profile -> its colours in sRGB, without the profile; one that is broken is passed over."""
    if "icc_profile" not in image.info:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    mode = image.mode if image.mode in ("CMYK", "LAB") else "L" if image.mode in ("1", "L", "LA") else "RGB"
    coloured = image.convert(mode)
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        srgb = ImageCms.profileToProfile(coloured, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        coloured = cast(Image.Image, srgb)  # None only of a picture that is changed in place
    except (ImageCms.PyCMSError, OSError, TypeError):
        coloured = coloured.convert("RGB")
    if alpha is not None:
        coloured.putalpha(alpha)
    coloured.info.clear()  # saved with the profile, or read here again, it would be converted twice
    return coloured


def _flat(image: Image.Image, ground: str) -> Image.Image:
    """Transparency laid on a ground."""
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
