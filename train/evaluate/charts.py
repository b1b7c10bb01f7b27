"""Line charts of figures, with linear or logarithmic axes: a handful of panels on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

WIDTH, HEIGHT = 4.6, 3.2  # inches of a panel
DOTS = 120  # pixels of an inch
# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, GRID = "#444444", "#e4e4e4"


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


def draw_chart(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """The panels row by row, one legend above them; a name has the same colour in all.

    Raises:
        ValueError: nothing to draw, or a number that a logarithmic axis cannot show.
    """
    if not panels or not all(line.x for panel in panels for line in panel.lines):
        raise ValueError("a chart needs at least one panel, and every line at least one point")
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((columns * WIDTH, rows * HEIGHT + 0.3), dpi=DOTS, layout="constrained")
    for number, panel in enumerate(panels, 1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel, colours)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    figure.legend([lines[name] for name in names], names, loc="outside upper left", ncols=len(names), frameon=False)
    return figure


def save_chart(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels as one PNG."""
    draw_chart(panels).savefig(path)


def locator(low: float, high: float, log: bool) -> Locator:
    """Where an axis from `low` to `high` has its numbers: round ones, three to nine."""
    if log and high > 5 * low:  # a shorter one has too few of a logarithm's own round numbers
        return LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=12)
    return MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    axes.set(xlabel=panel.x_label, xscale="log" if panel.log_x else "linear")
    axes.set(ylabel=panel.y_label, yscale="log" if panel.log_y else "linear")
    for line in panel.lines:
        for log, values in ((panel.log_x, line.x), (panel.log_y, (*line.y, *line.low))):
            if log and min(values) <= 0:
                raise ValueError(f"a logarithmic axis needs positive numbers, got {min(values):g}")
        colour = colours[line.name]
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(line.x, line.y, color=colour, marker="o", markersize=4, label=line.name)
        for x, y, word in zip(line.x, line.y, line.words, strict=False):
            axes.annotate(word, (x, y), (4, 4), textcoords="offset points", color=INK)
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, linewidth=1, linestyle="--")
    for axis, log in ((axes.xaxis, panel.log_x), (axes.yaxis, panel.log_y)):
        axis.set_major_locator(locator(*axis.get_view_interval(), log))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
