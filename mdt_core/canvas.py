"""A picture of any size meets a model of one size: crop, grow, feather, paste.

The model works on a square of the picture, its *box*, which may reach beyond the picture's edges (a letterbox, filled
by repeating the edge, of picture and mask). Pictures are (H, W, 3) uint8 arrays, masks (H, W) bool arrays, true where
to repaint:

    picture, mask -> canvas.pixels(), canvas.hardness() -> latents -> inpaint -> pixels -> canvas.paste() -> picture

The grown mask is the painted one with every pixel within `grow` of it, a round brush. Each latent cell that it touches
is repainted, new pixels are pasted inside it alone, and outside of it the result is the picture, bit for bit.

Letters: H, W sides of the picture, S side of the model's square, h, w latent cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdt_core.rgb import to_uint8

AREAS = ("whole", "crop", "masked")
MAX_GROW = 128  # picture pixels: squared distances up to it fit into 16 bits
MIN_SIDE = 8  # of a picture, pixels


@dataclass(frozen=True)
class Canvas:
    """How one picture and one mask map to the model; made by `fit_canvas`."""

    picture: np.ndarray  # (H, W, 3) uint8
    size: int  # S, pixels
    left: int  # of the box, in picture pixels; negative where it reaches beyond the picture
    top: int
    side: int  # of the box
    window: tuple[slice, slice]  # rows and columns of the picture outside of which nothing can change
    painted: np.ndarray  # bool, in the window
    ramp: np.ndarray  # float32 in the window: 1 where painted, falling with the distance, 0 outside the grown mask
    opacity: np.ndarray  # float32 in the window: share of the new pixel, 0 outside the grown mask

    def pixels(self) -> Tensor:
        """What the model sees of the picture, (1, 3, S, S) in [-1, 1]."""
        rows = np.arange(self.top, self.top + self.side).clip(0, self.picture.shape[0] - 1)
        columns = np.arange(self.left, self.left + self.side).clip(0, self.picture.shape[1] - 1)
        square = _resize(self.picture[rows][:, columns], self.size)
        return torch.from_numpy(square / np.float32(127.5) - 1).permute(2, 0, 1)[None]

    def hole(self) -> Tensor:
        """(S, S) bool: the model's pixels that the painted mask touches."""
        return self._coarsen(self.painted, self.size, self.size) > 0

    def hardness(self, h: int, w: int) -> Tensor:
        """(h, w) float32: the latent cells that the grown mask touches, 1 where the painted one does, 0 elsewhere."""
        return self._coarsen(self.ramp, h, w)

    def footprint(self, h: int, w: int) -> np.ndarray:
        """(H, W) bool: the pixels whose latent cell is repainted, to be shown as "what will be repainted"."""
        rows, columns = (
            (np.arange(length) - start) * cells // self.side
            for length, start, cells in zip(self.picture.shape, (self.top, self.left), (h, w), strict=False)
        )
        inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
        cells = (self.hardness(h, w) > 0).numpy()
        return inside & cells[rows.clip(0, h - 1)][:, columns.clip(0, w - 1)]

    def reach(self) -> np.ndarray:
        """(H, W) bool: the grown mask, outside of which no pixel changes."""
        inside = np.zeros(self.picture.shape[:2], bool)
        inside[self.window] = self.opacity > 0
        return inside

    def paste(self, pixels: Tensor) -> np.ndarray:
        """New pixels (3, S, S), about [-1, 1] -> the picture with them inside the grown mask, untouched outside."""
        rows, columns = self.window
        new = _resize(to_uint8(pixels), self.side)[rows.start - self.top :, columns.start - self.left :]
        result = self.picture.copy()
        old, share = self.picture[self.window].astype(np.float32), self.opacity[..., None]
        result[self.window] = np.rint(old + share * (new[: old.shape[0], : old.shape[1]] - old))
        return result

    def _coarsen(self, values: np.ndarray, h: int, w: int) -> Tensor:
        """Values in the window -> (h, w) over the box, the largest that each cell touches."""
        rows, columns = (self._lines(axis, cells) for axis, cells in enumerate((h, w)))
        values = np.stack([values[lines].max(0, initial=0) for lines in rows])
        values = np.stack([values[:, lines].max(1, initial=0) for lines in columns], 1)
        return torch.from_numpy(values.astype(np.float32))

    def _lines(self, axis: int, cells: int) -> Iterator[slice]:
        """The window's rows (axis 0) or columns (1) that each of so many cells of the box touches.

        Beyond the picture its edge is repeated, in the mask as in `pixels`: there a hole that reaches the edge goes on.
        """
        window, start = self.window[axis], (self.top, self.left)[axis]
        for i in range(cells):
            first = (start - window.start) + i * self.side // cells
            end = (start - window.start) - (-(i + 1) * self.side // cells)
            if window.start == 0:
                end = max(end, 1)
            if window.stop == self.picture.shape[axis]:
                first = min(first, window.stop - window.start - 1)
            yield slice(max(first, 0), max(end, 0))


def fit_canvas(
    picture: np.ndarray,
    mask: np.ndarray,
    size: int,
    *,
    cell: int = 8,
    area: str = "whole",
    grow: int = 8,
    feather: int = 4,
    context: float = 2.0,
) -> Canvas:
    """Place the model's square on a picture.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) bool, true where to repaint.
        size: S, the model's pixels along a side.
        cell: the model's pixels along a latent cell.
        area: "whole", the picture in a letterbox; "crop", the largest square within it, as near the mask as it goes;
            "masked", a square around the mask.
        grow: 0..128 picture pixels by which the mask is dilated.
        feather: picture pixels over which the new part fades in, within the grown ring: at most `grow` of them count.
        context: side of the "masked" square over that of the grown mask; S pixels or more, where the picture has.

    Raises:
        ValueError: if picture and mask do not fit together, the mask leaves nothing to do or nothing to go by, does not
            fit into the crop, or a number is out of its range.
    """
    height, width = mask.shape
    if picture.shape != (height, width, 3):
        raise ValueError(f"the mask has {width} x {height} pixels, the picture {picture.shape[1]} x {picture.shape[0]}")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"the picture has {width} x {height} pixels: it takes {MIN_SIDE} along each side")
    if not mask.any():
        raise ValueError("the mask is empty: paint what is to be repainted")
    if mask.all():
        raise ValueError("the mask covers the whole picture and leaves nothing to go by: generate a new one instead")
    if area not in AREAS:
        raise ValueError(f'the area is one of {", ".join(AREAS)}, not "{area}"')
    if not 0 <= grow <= MAX_GROW or grow % 1:
        raise ValueError(f"grow must be 0 to {MAX_GROW} whole pixels, not {grow}")
    if not feather >= 0 or feather % 1:
        raise ValueError(f"feather must be 0 whole pixels or more, not {feather}")
    grow, feather = int(grow), int(min(feather, grow))  # the painted part itself is replaced in full

    extent = [_extent(mask.any(1 - axis)) for axis in (0, 1)]  # first and last painted row, column
    wanted = round(context * (max(last - first for first, last in extent) + 1 + 2 * grow))
    side = {
        "whole": max(height, width),
        "crop": min(height, width),
        "masked": min(max(wanted, size), max(height, width)),
    }[area]
    top, left = (_place(side, length, *span) for length, span in zip(mask.shape, extent, strict=True))
    window = tuple(
        slice(max(first - grow - 1, start, 0), min(last + grow + 2, start + side, length))
        for length, start, (first, last) in zip(mask.shape, (top, left), extent, strict=True)
    )
    painted = mask[window]
    if painted.sum() < mask.sum():
        raise ValueError('the mask reaches beyond the crop, the largest square: choose the area "whole" or "masked"')
    if painted.sum() < (cell * side / size) ** 2:
        least = -(-cell * side // size)
        raise ValueError(f"the mask covers less than one of the model's cells, {least} x {least} pixels: paint more")

    distance = np.sqrt(_squared_distance(painted, grow), dtype=np.float32)  # to the painted mask
    grown = distance <= grow
    # To the picture that stays; beyond the box that is all of it.
    spans = zip(window, (top, left), mask.shape, strict=True)
    ends = np.array([(edge.start == start > 0, edge.stop == start + side < n) for edge, start, n in spans], int)
    stays = np.pad(~grown, ends, constant_values=True)
    inner = tuple(slice(before, before + n) for before, n in zip(ends[:, 0], grown.shape, strict=True))
    depth = np.sqrt(_squared_distance(stays, feather)[inner], dtype=np.float32)
    return Canvas(
        picture,
        size,
        left,
        top,
        side,
        window,
        painted,
        ramp=np.where(grown, 1 - distance / (grow + 1), 0),
        opacity=np.minimum(depth / (feather + 1), 1),
    )


def _extent(line: np.ndarray) -> tuple[int, int]:
    """First and last true position."""
    positions = np.flatnonzero(line)
    return int(positions[0]), int(positions[-1])


def _place(side: int, length: int, first: int, last: int) -> int:
    """Start of the box along one axis: around the mask and inside the picture, or around the picture if longer."""
    if side >= length:
        return (length - side) // 2
    return min(max((first + last + 1 - side) // 2, 0), length - side)


def _resize(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _squared_distance(mask: np.ndarray, limit: int) -> np.ndarray:
    """Squared distance of each pixel to the nearest true one, uint16; beyond `limit`: (limit + 1)^2.

    Exact, one axis after the other (Felzenszwalb & Huttenlocher 2012, section 2.1), by shifts: limits are small.
    """
    squared = np.where(mask, np.uint16(0), np.uint16((limit + 1) ** 2))
    for lines in (0, 1):
        nearest = squared.copy()
        old, new = np.moveaxis(squared, lines, 0), np.moveaxis(nearest, lines, 0)
        for k in range(1, min(limit, len(old) - 1) + 1):
            np.minimum(new[k:], old[:-k] + np.uint16(k * k), out=new[k:])
            np.minimum(new[:-k], old[k:] + np.uint16(k * k), out=new[:-k])
        squared = nearest
    return squared
