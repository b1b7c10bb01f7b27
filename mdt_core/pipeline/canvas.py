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

from mdt_core.pipeline.image_arrays import to_pil

AREAS = ("whole", "crop", "masked")
MAX_GROW = 128  # picture pixels: squared distances up to it fit into 16 bits
MIN_SIDE = 8  # of a picture, pixels
CONTEXT = 2.0  # side of the square around a mask over that of the grown mask
STRIP = 512  # rows that are pasted at a time


@dataclass(frozen=True)
class Box:
    """The model's square on a picture, in its pixels; negative where it reaches beyond the picture. By `fit_box`."""

    left: int
    top: int
    side: int

    def scaled(self, scale: float) -> "Box":
        """The same on a copy of the picture that is so many times as large."""
        return Box(round(self.left * scale), round(self.top * scale), max(1, round(self.side * scale)))


@dataclass(frozen=True)
class Canvas:
    """How one picture and one mask map to the model; made by `fit_canvas`."""

    picture: np.ndarray  # (H, W, 3) uint8
    size: int  # S, pixels
    box: Box
    window: tuple[slice, slice]  # rows and columns of the picture outside of which nothing can change
    painted: np.ndarray  # bool, in the window
    ramp: np.ndarray  # float32 in the window: 1 where painted, falling with the distance, 0 outside the grown mask
    opacity: np.ndarray  # float32 in the window: share of the new pixel, 0 outside the grown mask

    def pixels(self) -> Tensor:
        """What the model sees of the picture, (1, 3, S, S) in [-1, 1]."""
        square, starts = self.picture, (self.box.top, self.box.left)
        for axis in sorted((0, 1), key=lambda axis: -self.picture.shape[axis]):  # the longer side is made short first
            lines = np.arange(starts[axis], starts[axis] + self.box.side).clip(0, self.picture.shape[axis] - 1)
            square = square.take(lines, axis)
            shape = [self.size if line == axis else square.shape[line] for line in (0, 1)]
            square = np.asarray(Image.fromarray(square).resize(shape[::-1], Image.Resampling.LANCZOS))
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
            (np.arange(length) - start) * cells // self.box.side
            for length, start, cells in zip(self.picture.shape, (self.box.top, self.box.left), (h, w), strict=False)
        )
        inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
        cells = (self.hardness(h, w) > 0).numpy()
        return inside & cells[rows.clip(0, h - 1)][:, columns.clip(0, w - 1)]

    def reach(self) -> np.ndarray:
        """(H, W) bool: the grown mask, outside of which no pixel changes."""
        inside = np.zeros(self.picture.shape[:2], bool)
        inside[self.window] = self.opacity > 0
        return inside

    def paste(self, new: Tensor | Image.Image) -> np.ndarray:
        """New pixels (3, S, S), about [-1, 1], or an RGB picture -> inside the grown mask, the picture elsewhere."""
        square = new if isinstance(new, Image.Image) else to_pil(new)
        scale = square.width / self.box.side
        rows, columns = self.window
        result = self.picture.copy()
        for start in range(rows.start, rows.stop, STRIP):  # a large picture takes no more memory than its strips
            strip = slice(start, min(start + STRIP, rows.stop))
            edges = (columns.start - self.box.left, start - self.box.top)
            edges += (columns.stop - self.box.left, strip.stop - self.box.top)
            drawn = square.resize(
                (columns.stop - columns.start, strip.stop - start),
                Image.Resampling.LANCZOS,
                box=tuple(min(edge * scale, square.width) for edge in edges),
            )
            old = self.picture[strip, columns].astype(np.float32)
            share = self.opacity[start - rows.start : strip.stop - rows.start, :, None]
            result[strip, columns] = np.rint(old + share * (np.asarray(drawn) - old))
        return result

    def pictures(self, pixels: Tensor) -> list[Image.Image]:
        """New pixels (N, 3, S, S), each pasted into the picture."""
        return [Image.fromarray(self.paste(new)) for new in pixels]

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
        window, start = self.window[axis], (self.box.top, self.box.left)[axis]
        for i in range(cells):
            first = (start - window.start) + i * self.box.side // cells
            end = (start - window.start) - (-(i + 1) * self.box.side // cells)
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
    feather: int = 8,
) -> Canvas:
    """Place the model's square on a picture.

    Args:
        picture: (H, W, 3) uint8.
        mask, size, cell, area, grow: as in `fit_box`.
        feather: picture pixels over which the new part fades in, within the grown ring: at most `grow` of them count.

    Raises:
        ValueError: as in `fit_box`, or picture and mask do not fit together.
    """
    height, width = mask.shape
    if picture.shape != (height, width, 3):
        raise ValueError(f"the mask has {width} x {height} pixels, the picture {picture.shape[1]} x {picture.shape[0]}")
    box = fit_box(mask, size, cell=cell, area=area, grow=grow)
    return prepare(picture, mask, size, box, grow=grow, feather=feather)


def fit_box(mask: np.ndarray, size: int, *, cell: int = 8, area: str = "whole", grow: int = 8) -> Box:
    """Where the model's square lies; quick, also on large masks.

    Args:
        mask: (H, W) bool, true where to repaint.
        size: S, the model's pixels along a side.
        cell: the model's pixels along a latent cell.
        area: "whole", the picture in a letterbox; "crop", the largest square within it, as near the mask as it goes;
            "masked", a square around the mask, CONTEXT times as long; of S pixels or more, where the picture has them.
        grow: 0..128 picture pixels by which the mask is dilated.

    Raises:
        ValueError: if the mask leaves nothing to do or nothing to go by, or does not fit into the crop, or a number is
            out of its range.
    """
    height, width = mask.shape
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

    extents = _extents(mask)
    longest = max(last - first for first, last in extents) + 1
    wanted = round(CONTEXT * (longest + 2 * int(grow)))
    side = {
        "whole": max(height, width),
        "crop": min(height, width),
        "masked": min(max(wanted, size), max(height, width)),
    }[area]
    top, left = (_place(side, length, *span) for length, span in zip(mask.shape, extents, strict=True))
    if longest > side:
        raise ValueError('the mask reaches beyond the crop, the largest square: choose the area "whole" or "masked"')
    if mask.sum() < (cell * side / size) ** 2:
        least = -(-cell * side // size)
        hint = "paint more" if area == "masked" else 'paint more, or choose the area "masked"'
        raise ValueError(f"the mask covers less than one of the model's cells, {least} x {least} pixels: {hint}")
    return Box(left, top, side)


def prepare(picture: np.ndarray, mask: np.ndarray, size: int, box: Box, *, grow: int = 8, feather: int = 8) -> Canvas:
    """The canvas of a picture whose box is known; arguments as in `fit_canvas`. What lies beyond the box stays.

    Raises:
        ValueError: if `feather` is out of its range.
    """
    if not feather >= 0 or feather % 1:
        raise ValueError(f"feather must be 0 whole pixels or more, not {feather}")
    grow, feather = int(grow), int(min(feather, grow))
    spans = list(zip(mask.shape, (box.top, box.left), _extents(mask), strict=True))
    window = tuple(
        slice(max(first - grow - 1, start, 0), min(last + grow + 2, start + box.side, length))
        for length, start, (first, last) in spans
    )
    painted = mask[window]
    distance = np.sqrt(_squared_distance(painted, grow), dtype=np.float32)  # to the painted mask
    grown = distance <= grow
    # Distance to what stays as it is. Where the window ends at the box and not at the picture's edge, the row or column
    # beyond stays, too.
    ends = np.array(
        [
            (edge.start == start > 0, edge.stop == start + box.side < n)
            for edge, (n, start, _) in zip(window, spans, strict=True)
        ],
        int,
    )
    stays = np.pad(~grown, ends, constant_values=True)
    inner = tuple(slice(before, before + n) for before, n in zip(ends[:, 0], grown.shape, strict=True))
    depth = np.sqrt(_squared_distance(stays, feather)[inner], dtype=np.float32)
    return Canvas(
        picture,
        size,
        box,
        window,
        painted,
        ramp=np.where(grown, 1 - distance / (grow + 1), 0),
        opacity=np.where(painted, 1, np.minimum(depth / (feather + 1), 1)),  # the painted part is replaced in full
    )


def _extents(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last painted row, and column."""
    positions = (np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1))
    return [(int(lines[0]), int(lines[-1])) for lines in positions]


def _place(side: int, length: int, first: int, last: int) -> int:
    """Start of the box along one axis: around the mask and inside the picture, or around the picture if longer."""
    if side >= length:
        return (length - side) // 2
    return min(max((first + last + 1 - side) // 2, 0), length - side)


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
