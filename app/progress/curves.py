"""Curves over the steps of training, one line per run.

An axis is logarithmic where its values span enough to need it. A long line is drawn as the means over equal widths of
its axis: light to send, and less noisy where many steps share a place. A spike does not stretch the axis: it is cut off
at the upper edge, where a triangle says how high it goes.
"""

import html
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from app.common.charts import GRID, RUN_0, RUN_1, new_axes, to_svg
from app.engine.logs import Curve

WIDTHS = {"wide": 574, "narrow": 280}  # pixels: beside another chart on a page of 1280, and on a phone
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 176, 18, 38, 48, 14  # the chart's, and the distances of its axes from its edges
BINS = 120  # points of a line, at most
LOGARITHMIC = 5  # an axis whose last value is this many times its first
# A spike rises above 98% of a curve, be it of points enough, and above its beginning, unless that is one itself.
ORDINARY, ENOUGH, BEGINNING = 0.98, 20, 30

Limits = tuple[float, float]
Line = tuple[tuple[float, float], ...]  # (step, value), by step


def limits_of(values: Iterable[float]) -> Limits:
    """The smallest and the largest value; a single one is given room above."""
    values = list(values)
    low, high = min(values), max(values)
    return low, high if high > low else low + (abs(low) or 1)


def scale_of(limits: Limits) -> str:
    """The scale of such an axis, "log" or "linear"."""
    low, high = limits
    return "log" if low > 0 and high / low >= LOGARITHMIC else "linear"


def share(values: Any, limits: Limits) -> Any:
    """Where a value, or each of many, stands along an axis: 0 at the beginning or before, 1 at the end or beyond."""
    scale = np.log if scale_of(limits) == "log" else np.asarray
    low, high = limits
    return (scale(np.clip(values, low, high)) - scale(low)) / (scale(high) - scale(low))


def value_limits(curves: Sequence[Curve]) -> Limits:
    """The limits of the axis of some curves: their own but for spikes."""
    low = min(float(curve.values.min()) for curve in curves if curve)
    high = max(float(curve.values.max()) for curve in curves if curve)
    top = max(ceiling(curve) for curve in curves if curve)
    return limits_of([low, top if high - low > 2 * (top - low) > 0 else high])


def ceiling(curve: Curve) -> float:
    """The height above which a point is a spike."""
    if len(curve) < ENOUGH:
        return float(curve.values.max())
    k = int(ORDINARY * (len(curve) - 1))
    ordinary, first = float(np.partition(curve.values, k)[k]), float(curve.values[0])
    return max(ordinary, min(first, BEGINNING * ordinary))


def ticks(limits: Limits) -> Locator:
    """Round values: powers of ten, with 2 and 5 times them where there are few."""
    low, high = limits
    if scale_of(limits) == "linear":
        return MaxNLocator(5, steps=[1, 2, 5, 10])
    return LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,))


def chart(title: str, curves: Sequence[Curve], steps: Limits, dots: bool = False) -> str:
    """The curves of some runs as HTML, drawn for a wide page and for a narrow one, of which style sheets show one. The
    page's variable --x, a `share` of `steps`, says where the cursor stands.

    Args:
        curves: one per run, in the order of their colours; may be empty, but not all of them.
        steps: the first and the last, of all curves of a page.
        dots: mark every point, where points are few.
    """
    limits = value_limits(curves)
    lines = tuple(thinned(curve, steps, limits[1]) for curve in curves)
    spikes = tuple(peaks(curve, steps, limits[1]) for curve in curves)
    charts = {name: draw(title, lines, spikes, steps, limits, dots, width) for name, width in WIDTHS.items()}
    return "".join(f'<div class="{name}">{chart}</div>' for name, chart in charts.items())


@lru_cache(maxsize=64)  # several visitors look at one run
def draw(
    title: str, lines: tuple[Line, ...], spikes: tuple[Line, ...], steps: Limits, values: Limits, dots: bool, width: int
) -> str:
    """The chart of these lines in one width, in pixels."""
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
    marks = "".join(marks_of(of_run, number, steps, width) for number, of_run in enumerate(spikes))
    highest = max((point for of_run in spikes for point in of_run), key=lambda point: point[1], default=None)
    said = f"{title} over the training steps" + (f"; above the axis: {in_words(highest)}" if highest else "")
    return to_svg(axes, said).replace("</svg>", f"{cursor}{marks}</svg>")


def marks_of(spikes: Line, number: int, steps: Limits, width: int) -> str:
    """A triangle at the upper edge for each spike of a run, with its height; the highest one's can always be read."""
    marks = []
    highest = max(spikes, key=lambda point: point[1], default=None)
    for point in spikes:
        x = LEFT + share(point[0], steps) * (width - LEFT - RIGHT)
        mark = f'<path d="M{x - 5:.1f} {TOP - 4}h10l-5 -8z" style="fill: var(--run-{number})"/>'
        if point is highest:
            place = f'x="{x - 8:.1f}" text-anchor="end"' if x > width / 2 else f'x="{x + 8:.1f}"'
            mark += f'<text {place} y="{TOP - 4}">{point[1]:.4g}</text>'
        marks.append(f'<g class="spike"><title>{html.escape(in_words(point))}</title>{mark}</g>')
    return "".join(marks)


def in_words(point: tuple[float, float]) -> str:
    """A point in words."""
    return f"{point[1]:.4g} at step {point[0]:,.0f}"


def thinned(curve: Curve, steps: Limits, top: float) -> Line:
    """The line up to `top`, of at most BINS points: means of step and value over equal widths of the axis."""
    values = np.minimum(curve.values, top)
    if len(curve) <= BINS:
        return tuple(zip(curve.steps.tolist(), values.tolist(), strict=True))
    starts = beginnings(curve.steps, steps)
    sizes = np.diff(np.append(starts, len(curve)))
    means = [np.add.reduceat(numbers, starts) / sizes for numbers in (curve.steps, values)]
    return tuple(zip(*(mean.tolist() for mean in means), strict=True))


def peaks(curve: Curve, steps: Limits, top: float) -> Line:
    """The points above `top`: of those in one of BINS equal widths of the axis, the highest."""
    above = np.flatnonzero(curve.values > top)
    if not len(above):
        return ()
    starts = beginnings(curve.steps[above], steps)
    groups = np.split(above, starts[1:])
    highest = [group[np.argmax(curve.values[group])] for group in groups]
    return tuple((float(curve.steps[i]), float(curve.values[i])) for i in highest)


def beginnings(places: np.ndarray, steps: Limits) -> np.ndarray:
    """The index of the first of some ascending steps in each of BINS equal widths of the axis, where there is one."""
    bins = np.minimum((share(places, steps) * BINS).astype(int), BINS - 1)
    return np.flatnonzero(np.append(True, np.diff(bins) > 0))
