"""Charts: points are where their numbers say, on linear and logarithmic axes."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from train.evaluate import charts
from train.evaluate.charts import Line, Panel, draw_chart, save_chart


def middle(picture: np.ndarray, colour: str) -> tuple[float, float]:
    """Centre of what is drawn in a colour, in px."""
    rows, columns = np.nonzero((picture == ImageColor.getrgb(colour)).all(2))
    return columns.mean(), rows.mean()


def test_a_logarithmic_axis_puts_the_geometric_mean_in_the_middle(tmp_path):
    """Three lines of one point each: the middle one of 1, 10, 100 is halfway across where both axes are logarithmic and
    a tenth of the way where they are not. Would catch axes swapped, upside down, or linear in secret."""
    lines = [Line(str(v), [v], [v]) for v in (1, 10, 100)]
    for log, share in ((True, 0.5), (False, 1 / 11)):
        save_chart([Panel("x", "y", lines, log_x=log, log_y=log)], tmp_path / "chart.png")
        picture = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))[60:]  # without the legend
        (x0, y0), (x1, y1), (x2, y2) = (middle(picture, colour) for colour in charts.COLOURS[:3])
        assert (x1 - x0) / (x2 - x0) == pytest.approx(share, abs=0.01)
        assert (y1 - y0) / (y2 - y0) == pytest.approx(share, abs=0.01)
        assert y0 > y2  # upwards


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (45, 1700, True, [50, 100, 200, 500, 1000]),
        (0.9, 2e5, True, [1, 10, 100, 1000, 10_000, 100_000]),
        (0.55, 2.2, True, [1, 1.5, 2]),  # too short for a logarithm's own round numbers
        (0.08, 0.31, False, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (-0.1, 0.4, False, [-0.1, 0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_ticks_are_round_and_few(low, high, log, expected):
    ticks = charts.locator(low, high, log).tick_values(low, high)  # some beyond the ends, which no axis shows
    assert [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9] == pytest.approx(expected)


def test_one_value_alone_has_an_axis():
    """Would catch a division by zero where all points are at one height."""
    draw_chart([Panel("x", "y", [Line("flat", [1, 2], [0.0, 0.0])])])
    draw_chart([Panel("x", "y", [Line("flat", [1, 1], [5, 5])], log_x=True, log_y=True)])


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="positive numbers, got -1"):
        draw_chart([Panel("x", "y", [Line("a", [1, 2], [-1, 2])], log_y=True)])
    with pytest.raises(ValueError, match="at least one point"):
        draw_chart([Panel("x", "y", [Line("a", [], [])])])


def test_a_name_has_one_colour_and_one_place_in_the_legend():
    """Would catch a line that changes its colour from panel to panel, and a legend that names it once for each."""
    line, other = Line("a", [1, 2], [1, 2], low=[0, 1], high=[2, 3]), Line("b", [1, 2], [2, 1], words=["x", "y"])
    figure = draw_chart([Panel("x", "y", [line, other]), Panel("x", "y", [other], level=1.5)])
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]
    colours = [{drawn.get_label(): drawn.get_color() for drawn in axes.lines} for axes in figure.axes]
    assert colours[0]["b"] == colours[1]["b"] != colours[0]["a"]
