"""Curves over the steps of training, one line per run.

An axis is logarithmic where its values span enough to need it. A long line is drawn as the means over equal widths of
its axis: light to send, and less noisy where many steps share a place.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from matplotlib.ticker import EngFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from app.common.charts import GRID, RUN_0, RUN_1, new_axes, to_svg

WIDTHS = {"wide": 574, "narrow": 280}  # pixels: beside another chart on a page of 1280, and on a phone
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 176, 8, 38, 48, 14  # the chart's, and the distances of its axes from its edges
BINS = 120  # points of a line, at most
LOGARITHMIC = 5  # an axis whose last value is this many times its first

Limits = tuple[float, float]
Line = Sequence[tuple[float, float]]  # (step, value), by step


def limits_of(values: Iterable[float]) -> Limits:
    """The smallest and the largest value; a single one is given room above."""
    values = list(values)
    low, high = min(values), max(values)
    return low, high if high > low else low + (abs(low) or 1)


def scale_of(limits: Limits) -> str:
    """The scale of such an axis, "log" or "linear"."""
    low, high = limits
    return "log" if low > 0 and high / low >= LOGARITHMIC else "linear"


def share(value: float, limits: Limits) -> float:
    """Where a value stands along an axis: 0 at the beginning or before, 1 at the end or beyond."""
    scale = math.log if scale_of(limits) == "log" else float
    low, high = limits
    return (scale(min(max(value, low), high)) - scale(low)) / (scale(high) - scale(low))


def ticks(limits: Limits) -> Locator:
    """Round values: powers of ten, with 2 and 5 times them where there are few."""
    low, high = limits
    if scale_of(limits) == "linear":
        return MaxNLocator(5, steps=[1, 2, 5, 10])
    return LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,))


def curve(title: str, lines: Sequence[Line], steps: Limits, dots: bool = False) -> str:
    """The curves of some runs as HTML, drawn for a wide page and for a narrow one, of which style sheets show one. The
    page's variable --x, a `share` of `steps`, says where the cursor stands.

    Args:
        lines: one per run, in the order of their colours; may be empty, but not all of them.
        steps: the first and the last, of all curves of a page.
        dots: mark every point, where points are few.
    """
    short = tuple(tuple(binned(line, steps)) for line in lines)
    charts = {name: draw(title, short, steps, dots, width) for name, width in WIDTHS.items()}
    return "".join(f'<div class="{name}">{chart}</div>' for name, chart in charts.items())


@lru_cache(maxsize=64)  # several visitors look at one run
def draw(title: str, lines: tuple[Line, ...], steps: Limits, dots: bool, width: int) -> str:
    """The chart of `curve` in one width, in pixels."""
    values = limits_of(value for line in lines for _, value in line)
    axes = new_axes(width, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)
    axes.set(xscale=scale_of(steps), xlim=steps, xlabel="training steps")
    axes.set(yscale=scale_of(values), ylim=values, ylabel=title)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set(major_locator=ticks(steps), minor_locator=NullLocator(), major_formatter=EngFormatter(sep=""))
    axes.yaxis.set(major_locator=ticks(values), minor_locator=NullLocator(), major_formatter="{x:g}")
    for line, colour in zip(lines, (RUN_0, RUN_1), strict=False):
        marker = "o" if dots or len(line) == 1 else ""
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.8, marker=marker, markersize=5, clip_on=False)
    place = f"--from: {LEFT}; --over: {width - LEFT - RIGHT}"
    cursor = f'<path class="cursor" d="M0 {TOP}V{HEIGHT - BOTTOM}" style="{place}"/>'
    return to_svg(axes, f"{title} over the training steps").replace("</svg>", f"{cursor}</svg>")


def binned(line: Line, steps: Limits) -> Line:
    """At most BINS points: means of step and value over equal widths of the axis."""
    if len(line) <= BINS:
        return line
    bins = groupby(line, key=lambda point: min(int(share(point[0], steps) * BINS), BINS - 1))
    groups = [list(group) for _, group in bins]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]
