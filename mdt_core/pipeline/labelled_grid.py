"""Pictures in labelled rows and columns on one sheet, to be kept as a file or looked at while it fills."""

import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise

from PIL import Image, ImageDraw

from mdt_core.pipeline.fonts import font

INK, FAINT, PAPER, EMPTY = "#1e293b", "#64748b", "#ffffff", "#f1f5f9"
MARGIN, LEAST_GAP = 14, 8  # pixels; large pictures stand further apart
LABEL, TITLE, NOTE = font(14), font(17), font(12)
LABEL_LINE, TITLE_LINE, NOTE_LINE = 20, 26, 16  # pixels from a line to the next

Cell = Image.Image | str | None  # a picture, why there is none, or nothing yet


class LabelledGrid:
    """A sheet of pictures. `image` is the whole of it (RGB), and `paste` puts one more picture into its place.

    Titles and column labels that are too long are cut: they never change how large a sheet is, so that the frames of a
    film are alike. Only `widen` lets column labels decide.

    Args:
        cells: rows of pictures. A text stands where a picture is missing and says why; None leaves the place empty. A
            row may be shorter than the others.
        size: width and height of a place in pixels; by default what holds all pictures.
        row_labels: one per row, at its left.
        column_labels: one per column, above it. None puts a column under the label of the column before.
        title: a line above all.
        footer: lines below all.
        widen: columns as wide as their labels, in place of labels cut to their columns.
        resample: how Pillow scales a picture that does not fill its place; None leaves it as it is, at the top.

    Raises:
        ValueError: there is no cell, or no picture to take the size from, or labels do not match rows or columns.
    """

    def __init__(
        self,
        cells: Sequence[Sequence[Cell]],
        size: tuple[int, int] | None = None,
        *,
        row_labels: Sequence[str] = (),
        column_labels: Sequence[str | None] = (),
        title: str = "",
        footer: Sequence[str] = (),
        widen: bool = False,
        resample: Image.Resampling | None = None,
    ):
        columns = max(map(len, cells), default=0)
        if not columns:
            raise ValueError("a grid needs at least one cell")
        if len(row_labels) not in (0, len(cells)) or len(column_labels) not in (0, columns):
            raise ValueError(
                f"{len(row_labels)} row labels and {len(column_labels)} column labels do not match a grid of "
                f"{len(cells)} rows and {columns} columns"
            )
        self.size, self.resample = size or largest(cells), resample

        # Where everything stands.
        gap = max(LEAST_GAP, self.size[0] // 24)
        self._column_width = max([self.size[0], *(LABEL.length(label or "") for label in column_labels if widen)])
        gaps = [gap] * (columns - 1)
        if None in column_labels:  # what stands under one label stands together
            gaps = [gap if label is None else 3 * gap for label in column_labels[1:]]
        left = MARGIN + max((LABEL.length(label) + LEAST_GAP for label in row_labels), default=0)
        edges = list(accumulate((self._column_width + gap for gap in gaps), initial=left))
        top = MARGIN + TITLE_LINE * bool(title) + LABEL_LINE * any(column_labels)
        self._x = [edge + (self._column_width - self.size[0]) // 2 for edge in edges]
        self._y = [top + row * (self.size[1] + gap) for row in range(len(cells))]
        bottom = self._y[-1] + self.size[1]
        width = max(edges[-1] + self._column_width, left + max(map(NOTE.length, footer), default=0)) + MARGIN
        height = bottom + (4 if footer else 0) + NOTE_LINE * len(footer) + MARGIN

        # The texts, then the pictures.
        self.image = Image.new("RGB", (width, height), PAPER)
        self._pen = ImageDraw.Draw(self.image)
        TITLE.draw(self._pen, left, MARGIN, TITLE.cut(title, width - MARGIN - left), INK)
        self._label_columns(column_labels, top - 6)
        for y, label in zip(self._y, row_labels, strict=False):
            LABEL.draw(self._pen, left - LEAST_GAP, y + self.size[1] / 2, label, INK, "rm")
        for number, line in enumerate(footer, 1):
            NOTE.draw(self._pen, left, bottom + 4 + NOTE_LINE * number, line, FAINT, "lb")
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                self.paste(cell, row, column)

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left pixel of a place, as (x, y)."""
        return self._x[column], self._y[row]

    def paste(self, cell: Cell, row: int, column: int) -> None:
        """Put a picture, or why there is none, into its place."""
        x, y = self.corner(row, column)
        width, height = self.size
        if isinstance(cell, Image.Image):
            if self.resample is not None and cell.size != self.size:
                cell = cell.convert("RGB").resize(self.size, self.resample)
            self.image.paste(cell, (x + (width - cell.width) // 2, y))
            return
        self._pen.rectangle((x, y, x + width - 1, y + height - 1), fill=EMPTY)
        lines = textwrap.wrap(cell or "", max(8, int(width / 7.2)))
        middle = y + height / 2 - NOTE_LINE * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            NOTE.draw(self._pen, x + width / 2, middle + NOTE_LINE * number, line, FAINT, "mm")

    def _label_columns(self, labels: Sequence[str | None], baseline: int) -> None:
        """Write each label over the middle of its columns."""
        firsts = [column for column, label in enumerate(labels) if label is not None]
        for first, after in pairwise([*firsts, len(labels)]):
            start, end = self._x[first], self._x[after - 1]
            label = LABEL.cut(labels[first], end - start + self._column_width)
            LABEL.draw(self._pen, (start + end + self.size[0]) / 2, baseline, label, INK, "ms")


def largest(cells: Sequence[Sequence[Cell]]) -> tuple[int, int]:
    """The width and height that hold every picture of these cells."""
    sizes = [cell.size for row in cells for cell in row if isinstance(cell, Image.Image)]
    if not sizes:
        raise ValueError("a grid without pictures needs a size for their places")
    return max(width for width, _ in sizes), max(height for _, height in sizes)
