"""Curves over the steps of training, one line per run, as an SVG that follows the page's colours.

An axis is logarithmic where its values span enough to need it. A long curve is drawn as the means over equal widths of
its axis: light to send, and less noisy where many steps share a place. The cursor stands at the page's variable --x.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from app.progress.run_reader import Points

WIDTH, HEIGHT = 560, 158  # of the drawing's own coordinates
LEFT, RIGHT, TOP, BOTTOM = 44, 550, 10, 134  # of the axes
BINS = 120  # points that a line is drawn with, at most
LOGARITHMIC = 5  # an axis whose last value is this many times its first


@dataclass(frozen=True)
class Axis:
    """Values -> coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> "Axis":
        """From the smallest to the largest value; a single one is given room."""
        values = list(values)
        low, high = min(values), max(values)
        return cls(low, high if high > low else low + (abs(low) or 1), start, end)

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= LOGARITHMIC

    def __call__(self, value: float) -> float:
        """The coordinate of a value; one beyond an end stands at the end."""
        value = min(max(value, self.low), self.high)
        scale = math.log if self.logarithmic else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return round(self.start + (self.end - self.start) * share, 1)

    @property
    def ticks(self) -> list[float]:
        """Round values: powers of ten, or with 2 and 5 between them where there are few."""
        if not self.logarithmic:
            unit = 10 ** math.floor(math.log10(self.high - self.low))
            step = next(unit * m for m in (0.2, 0.5, 1, 2) if (self.high - self.low) / (unit * m) <= 5)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [round(i * step, 12) for i in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1,), (1, 3), (1, 2, 5)):
            marks = [m * 10.0**d for d in decades for m in mantissas]
            marks = [mark for mark in marks if self.low <= mark <= self.high]
            if len(marks) >= 3:
                break
        return marks


def step_axis(steps: Iterable[int]) -> Axis:
    """The axis along which all curves of a page run."""
    return Axis.over(steps, LEFT, RIGHT)


def curve(title: str, lines: Sequence[Points], steps: Axis, dots: bool = False) -> str:
    """The curves of some runs, the first in the page's first colour, and so on. At least one has a point.

    Args:
        lines: one per run, in the order of their colours; may be empty.
        dots: mark every point, where points are few.
    """
    thin = [binned(line, steps) for line in lines]
    y = Axis.over([value for line in thin for _, value in line], BOTTOM, TOP)
    across = "".join(
        f'<path class="grid" d="M{LEFT} {y(tick)}H{RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in y.ticks
    )
    along = "".join(
        f'<path class="axis" d="M{steps(tick)} {BOTTOM}v4"/>'
        f'<text x="{steps(tick)}" y="{BOTTOM + 17}" text-anchor="middle">{short(tick)}</text>'
        for tick in steps.ticks
    )
    drawn = ""
    for number, line in enumerate(thin):
        places = [(steps(step), y(value)) for step, value in line]
        drawn += f'<polyline class="line run-{number}" points="{" ".join(f"{a},{b}" for a, b in places)}"/>'
        if dots or len(places) == 1:
            drawn += "".join(f'<circle class="dot run-{number}" cx="{a}" cy="{b}" r="2.6"/>' for a, b in places)
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title} over the steps">'
        f'{across}<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>{along}{drawn}'
        f'<path class="cursor" d="M0 {TOP}V{BOTTOM}"/></svg>'
    )


def binned(line: Points, steps: Axis) -> Points:
    """At most BINS points: means of step and value over equal widths of the axis."""
    if len(line) <= BINS:
        return line
    width = (RIGHT - LEFT) / BINS
    groups = [list(group) for _, group in groupby(line, key=lambda point: int((steps(point[0]) - LEFT) / width))]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def short(step: float) -> str:
    """A number of steps as an axis shows it."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
