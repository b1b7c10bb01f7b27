"""A board: pictures in rows and columns on paper, labelled at the top and at the left, to be kept as a file."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from app.common.paper import EMPTY, FAINT, INK, PAPER, font

MARGIN, GAP, LINE = 14, 8, 20  # pixels; large pictures stand further apart
FONT, TITLE, SMALL = (font(size) for size in (14, 17, 12))
SMALL_LINE = 16

Cell = Image.Image | str | None  # a picture, why there is none, or nothing


def board(
    cells: Sequence[Sequence[Cell]],
    size: tuple[int, int],
    top: Sequence[str],
    left: Sequence[str] = (),
    title: str = "",
    footer: Sequence[str] = (),
) -> Image.Image:
    """Draw a board. What it measures depends on nothing but `size`, the number of cells, `left` and `footer`.

    Args:
        cells: rows of pictures, none larger than `size`, width and height in pixels.
        top, left: a name per column and per row.
        title: a line above, cut where it is too long.
        footer: lines below.
    """
    gap = max(GAP, size[0] // 24)
    indent = MARGIN + max((round(FONT.getlength(name)) + GAP for name in left), default=0)
    above = MARGIN + LINE * (any(top) + bool(title)) + (6 if title else 0)
    width = max(
        indent + len(cells[0]) * (size[0] + gap) - gap,
        indent + max((round(SMALL.getlength(line)) for line in footer), default=0),
    )
    below = len(footer) * SMALL_LINE + MARGIN + (4 if footer else 0)
    height = above + len(cells) * (size[1] + gap) - gap + below
    paper = Image.new("RGB", (width + MARGIN, height), PAPER)
    pen = ImageDraw.Draw(paper)
    if title:
        pen.text((indent, MARGIN), cut(title, width - indent, TITLE), INK, TITLE)
    for row, pictures in enumerate(cells):
        y = above + row * (size[1] + gap)
        if left:
            pen.text((indent - GAP, y + size[1] // 2), left[row], INK, FONT, anchor="rm")
        for column, cell in enumerate(pictures):
            x = indent + column * (size[0] + gap)
            if row == 0:
                pen.text((x + size[0] // 2, above - 5), cut(top[column], size[0], FONT), INK, FONT, anchor="ms")
            place(paper, pen, cell, (x, y), size)
    for number, line in enumerate(footer):
        y = height - MARGIN - (len(footer) - number) * SMALL_LINE
        pen.text((indent, y + SMALL_LINE), line, FAINT, SMALL, anchor="lb")
    return paper


def place(paper: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], size: tuple[int, int]):
    """Put a picture, or why there is none, where it belongs."""
    x, y = corner
    if isinstance(cell, Image.Image):
        paper.paste(cell, (x + (size[0] - cell.width) // 2, y))
        return
    pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=EMPTY)
    if cell:
        lines = textwrap.wrap(cell, max(8, int(size[0] / 6.4)))
        pen.multiline_text((x + size[0] // 2, y + size[1] // 2), "\n".join(lines), FAINT, SMALL, "mm", align="center")


def cut(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """A text no wider than so many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
