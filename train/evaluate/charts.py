"""Line charts of figures, with linear or logarithmic axes: a handful of panels beside each other as one picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 460, 320  # px of a panel
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44  # px around its axes
LEGEND = 26  # px above all panels
SHARPNESS = 3  # drawn this many times larger, then averaged: Pillow's lines have steps

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
AXIS, GRID = "#444444", "#e4e4e4"


@dataclass(frozen=True)
class Line:
    """Points of one name, in order; where known, the ends of each point's spread and a word beside it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes. A level is a dashed horizontal line. Only positive numbers fit a logarithmic axis."""

    x_label: str
    y_label: str
    lines: Sequence[Line]
    level: float | None = None
    log_x: bool = False
    log_y: bool = False


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from `low` to `high`, three to nine of them."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1,)):
            found = [d * 10.0**power for power in powers for d in digits if low <= d * 10.0**power <= high]
            if 3 <= len(found) <= 9:
                return found
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis(values: Sequence[float], log: bool, start: float, end: float) -> tuple[list[float], Callable[[float], float]]:
    """Ticks, and the way from a value to px between `start` and `end`, with a little room around the values."""
    if log and min(values) <= 0:
        raise ValueError(f"a logarithmic axis needs positive numbers, got {min(values):g}")
    scale, inverse = (math.log, math.exp) if log else (float, float)
    low, high = scale(min(values)), scale(max(values))
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - room, high + room

    def place(value: float) -> float:
        return start + (scale(value) - low) / (high - low) * (end - start)

    return ticks(inverse(low), inverse(high), log), place


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> Image.Image:
    """The panels row by row, one legend above them; a name has the same colour in all.

    Raises:
        ValueError: nothing to draw, or a number that a logarithmic axis cannot show.
    """
    if not panels or not all(line.x for panel in panels for line in panel.lines):
        raise ValueError("a chart needs at least one panel, and every line at least one point")
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    width, height = columns * WIDTH, LEGEND + -(-len(panels) // columns) * HEIGHT
    picture = Image.new("RGB", (SHARPNESS * width, SHARPNESS * height), "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(size=SHARPNESS * 12)

    x = LEFT * SHARPNESS
    for name in names:
        pen.line((x, 14 * SHARPNESS, x + 22 * SHARPNESS, 14 * SHARPNESS), colour[name], 3 * SHARPNESS)
        pen.text((x + 28 * SHARPNESS, 14 * SHARPNESS), name, AXIS, font, anchor="lm")
        x += 50 * SHARPNESS + font.getlength(name)
    for i, panel in enumerate(panels):
        _draw_panel(pen, font, panel, colour, i % columns * WIDTH, LEGEND + i // columns * HEIGHT)
    return picture.resize((width, height), Image.Resampling.BOX)


def save_chart(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels as one PNG."""
    draw_panels(panels).save(path)


def _draw_panel(pen: ImageDraw.ImageDraw, font, panel: Panel, colour: dict[str, str], left: int, top: int) -> None:
    s = SHARPNESS
    x0, x1, y0, y1 = (s * v for v in (left + LEFT, left + WIDTH - RIGHT, top + HEIGHT - BOTTOM, top + TOP))
    xs = [x for line in panel.lines for x in line.x]
    ys = [y for line in panel.lines for y in (*line.y, *line.low, *line.high)]
    x_ticks, x_place = axis(xs, panel.log_x, x0, x1)
    y_ticks, y_place = axis(ys if panel.level is None else [*ys, panel.level], panel.log_y, y0, y1)

    for tick in x_ticks:
        pen.line((x_place(tick), y0, x_place(tick), y1), GRID, s)
        pen.text((x_place(tick), y0 + 5 * s), f"{tick:,.6g}", AXIS, font, anchor="mt")
    for tick in y_ticks:
        pen.line((x0, y_place(tick), x1, y_place(tick)), GRID, s)
        pen.text((x0 - 5 * s, y_place(tick)), f"{tick:,.6g}", AXIS, font, anchor="rm")
    pen.line((x0, y1, x0, y0, x1, y0), AXIS, s)
    pen.text(((x0 + x1) / 2, s * (top + HEIGHT - 10)), panel.x_label, AXIS, font, anchor="mb")
    pen.text((x0, y1 - 8 * s), panel.y_label, AXIS, font, anchor="ls")

    if panel.level is not None:
        y = y_place(panel.level)
        for x in range(int(x0), int(x1), 8 * s):
            pen.line((x, y, min(x + 4 * s, x1), y), AXIS, s)
    for line in panel.lines:
        points = [(x_place(x), y_place(y)) for x, y in zip(line.x, line.y, strict=True)]
        if line.low and len(points) > 1:
            edge = [(x, y_place(y)) for (x, _), y in zip(points, line.low, strict=True)]
            other = [(x, y_place(y)) for (x, _), y in zip(points, line.high, strict=True)]
            pen.polygon([*edge, *reversed(other)], fill=colour[line.name] + "30")
        pen.line(points, colour[line.name], 2 * s, joint="curve")
        for x, y in points:
            pen.ellipse((x - 3 * s, y - 3 * s, x + 3 * s, y + 3 * s), colour[line.name])
        for (x, y), word in zip(points, line.words, strict=False):
            pen.text((x + 5 * s, y - 4 * s), word, AXIS, font, anchor="lb")
