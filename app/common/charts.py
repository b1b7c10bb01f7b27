"""Charts by matplotlib as pieces of the page: SVG in its colours, light and dark, and in its letters."""

import html
import io
import re
from threading import Lock

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text

# What matplotlib draws with -> what the browser puts in its place.
TEXT, GRID, GROUND, ACCENT, GREY, RUN_0, RUN_1 = (f"#00000{number}" for number in range(1, 8))
PAGE_COLOURS = {
    TEXT: "var(--body-text-color-subdued)",
    GRID: "var(--border-color-primary)",
    GROUND: "var(--background-fill-primary)",
    ACCENT: "var(--primary-500)",
    GREY: "var(--neutral-400)",
    RUN_0: "var(--run-0)",
    RUN_1: "var(--run-1)",
}
FONT_SIZE = 11  # pixels, like all lengths here: of a chart that is shown as wide as it was drawn
NOT_FOR_A_PAGE = re.compile(  # a style for all elements, ids that are the same in every chart, matplotlib's own fonts
    r"<defs>\s*<style.*?</defs>\s*| id=\"[\w.]+_\d+\"| font-family: [^;]*;", re.DOTALL
)
DRAWING = Lock()  # matplotlib is not made for several threads


def new_axes(width: int, height: int, left: int, right: int, top: int, bottom: int) -> Axes:
    """Axes in a figure of this size, at these distances from its edges."""
    figure = Figure((width / 72, height / 72), frameon=False)  # an SVG has 72 pixels to the inch
    inner = ((width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes((left / width, bottom / height, *inner), facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(labelsize=FONT_SIZE, labelcolor=TEXT, color=GRID, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=FONT_SIZE, color=TEXT)
    return axes


def to_svg(axes: Axes, said: str) -> str:
    """The chart as an SVG element of class "chart"; `said` is what screen readers call it."""
    buffer = io.StringIO()
    with DRAWING:
        axes.figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = NOT_FOR_A_PAGE.sub("", buffer.getvalue().partition("<svg ")[2])
    drawing = drawing.replace("<g id=", "<g class=")  # of what was drawn with a gid: a page has several charts
    for drawn, shown in PAGE_COLOURS.items():
        drawing = drawing.replace(drawn, shown)
    return f'<svg class="chart" role="img" aria-label="{html.escape(said)}" {drawing}'
