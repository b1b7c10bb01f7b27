"""The view of the Training progress tab: which samples stand beside each other at a step, and the curves below."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from app.engine.logs import Curve
from app.progress.curves import (
    BINS,
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTHS,
    chart,
    limits_of,
    scale_of,
    share,
    thinned,
    ticks,
)
from app.progress.steps import all_steps, at_or_below, checkpoints_of, slider_position, suggested_checkpoint
from app.progress.view import columns_for, view
from mdt_core.runs import Run
from tests.helpers.run_folders import see, write_checkpoint, write_two_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_two_runs(tmp_path / "runs")


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(*np.array(points, float).reshape(-1, 2).T)


def changes_of(page: str) -> list[dict]:
    return json.loads(html.unescape(page.split('data-steps="')[1].split('"')[0]))


def lines_of(drawing: str, run: int) -> list[list[tuple[float, float]]]:
    """The points of a run's line in each of the charts of a drawing, in pixels."""
    paths = re.findall(rf'<path d="M([^"]*)" style="fill: none; stroke: var\(--run-{run}\)', drawing)
    return [[tuple(map(float, point.split())) for point in path.split("L")] for path in paths]


def test_the_nearest_step_is_never_a_later_one() -> None:
    """Catches samples that are shown before they were drawn."""
    steps = [50, 100, 700]
    assert [at_or_below(steps, step) for step in (49, 50, 99, 100, 5000)] == [None, 50, 50, 100, 700]
    assert at_or_below([], 10) is None
    line = curve((10, 0.5), (20, 0.25))
    assert [line.at(step) for step in (9, 10, 19, 20, 99)] == [None, 0.5, 0.5, 0.25, 0.25]


def test_the_slider_follows_only_from_the_end() -> None:
    """Catches a slider that jumps away from the step one looks at, and one that stays behind a growing run."""
    before, now = [1, 2, 4], [1, 2, 3, 4, 8]
    assert slider_position(before, 2, now) == 4
    assert slider_position(before, 1, now) == 1
    assert slider_position([2, 4, 8], 1, now) == 3
    assert slider_position((), 0, now) == 4
    assert slider_position(before, 1, []) == 0


def test_two_runs_at_one_step(runs: Path) -> None:
    """Catches panels at different steps without a word about it, and a picture of another run."""
    seen = [see(runs, "mdt"), see(runs, "dit")]
    assert all_steps(seen) == [10, 50, 100, 700, 1000]
    changes = changes_of(view(seen, 4, lambda sheet: f"{sheet.path.parts[-3]}/{sheet.path.stem[-4:]}"))
    assert [change["label"] for change in changes] == ["Step 10", "Step 50", "Step 100", "Step 700", "Step 1,000"]
    assert [change["sheets"] for change in changes] == [
        ["mdt/0010", None],
        ["mdt/0010", "dit/0050"],
        ["mdt/0100", "dit/0100"],
        ["mdt/0100", "dit/0700"],
        ["mdt/1000", "dit/0700"],
    ]
    assert changes[0]["words"]["at-1"] == "nothing drawn up to step 10 yet"
    assert changes[2]["words"]["at-0"] == "step <b>100</b>"
    assert changes[3]["words"]["at-0"] == "step <b>100</b>, the last drawn up to 700"
    assert (changes[3]["words"]["loss-0"], changes[0]["words"]["loss-1"]) == ("0.0100", "–")
    places = [change["x"] for change in changes]
    assert places == sorted(places)


def test_every_class_is_labelled_and_cut_out_of_the_sheet(runs: Path) -> None:
    """Catches a label under another class's samples, and names that are taken for HTML."""
    config = Run(runs / "mdt").config
    Run(runs / "mdt").write_config(config | {"classes": ["cat", '<b>"dog"', "owl"], "model": "<script>"})
    page = view([see(runs)], 0, lambda sheet: "x")
    figures = page.split("<figure ")[1:]
    assert len(figures) == 3
    assert "cat</figcaption>" in figures[0]
    assert "position: 0% 0%" in figures[0]
    assert "position: 0% 100%" in figures[0]
    assert "position: 50% 0%" in figures[1]
    assert "&lt;b&gt;&quot;dog&quot;" in figures[1]
    assert "position: 100% 100%" in figures[2]
    assert "<script>" not in page
    Run(runs / "mdt").write_config(config | {"classes": ["cat"]})
    assert "class 2</figcaption>" in view([see(runs)], 0, lambda sheet: "x")


@pytest.mark.parametrize(("classes", "rows", "columns"), [(16, 2, 8), (3, 2, 3), (1, 1, 1), (40, 1, 10)])
def test_the_tiles_are_as_large_as_they_can_be(classes: int, rows: int, columns: int) -> None:
    """Catches a single column of tiny tiles, and a division by nothing."""
    assert columns_for(classes, rows) == columns


def test_a_checkpoint_is_suggested_with_the_step(runs: Path) -> None:
    """Catches a button that opens a later checkpoint than the samples show, or another run's."""
    Run(runs / "mdt").write_checkpoint(100, write_checkpoint)
    seen = [see(runs, "mdt"), see(runs, "dit")]
    assert list(checkpoints_of(seen)) == ["mdt @ 100", "mdt @ 1000", "dit @ 700"]
    assert suggested_checkpoint(seen, 999, None) == "mdt @ 100"
    assert suggested_checkpoint(seen, 1000, "mdt @ 100") == "mdt @ 1000"
    assert suggested_checkpoint(seen, 1000, "dit @ 700") == "dit @ 700"
    assert suggested_checkpoint(seen, 10, "nobody @ 5") == "mdt @ 100"
    assert suggested_checkpoint([], 10, None) is None


# --- curves ------------------------------------------------------------------------------------------------------


def test_an_axis_is_logarithmic_where_it_helps() -> None:
    """Catches a curve squeezed into the first tenth of its plot, ticks outside of it, and a logarithm of nothing."""

    def marks(limits: tuple[float, float]) -> list[float]:
        return [mark for mark in ticks(limits).tick_values(*limits) if limits[0] <= mark <= limits[1]]

    steps = limits_of([10, 100, 1000])
    assert [share(step, steps) for step in (1, 10, 100, 1000, 9999)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert marks(steps) == pytest.approx([10, 20, 50, 100, 200, 500, 1000])
    assert marks((1, 1e6)) == pytest.approx([1, 10, 100, 1e3, 1e4, 1e5, 1e6])
    kid = limits_of([-0.01, 0.03])
    assert scale_of(kid) == "linear"
    assert share(0.01, kid) == 0.5
    assert marks(kid) == pytest.approx([-0.01, 0, 0.01, 0.02, 0.03])
    assert share(7, limits_of([7])) == 0
    assert share(0, limits_of([0, 0])) == 0


def test_a_long_curve_is_thinned_to_its_means() -> None:
    """Catches a page of megabytes after a long training, and a curve that shows single noisy steps."""
    noisy = [(step, 1.0 + (-1) ** step) for step in range(1, 10_001)]
    thin = thinned(curve(*noisy), (1, 10_000), top=2)
    assert len(thin) <= BINS
    assert thin[-1][1] == pytest.approx(1, abs=0.02)
    assert thinned(curve(*noisy[:50]), (1, 50), top=2) == tuple(noisy[:50])


@pytest.mark.parametrize("length", [60, 10_000])
def test_a_spike_is_marked_and_flattens_nothing(length: int) -> None:
    """Catches a curve pressed into the lowest tenth of its chart by one row, and a spike that is left out."""
    points = [(step, 0.6 / step**0.3) for step in range(1, length + 1)]
    points[length // 2] = (length // 2 + 1, 1480.0)
    drawing = chart("Loss", [curve(*points), curve(*points[: length // 2])], (1, length))
    for line in lines_of(drawing, 0):
        heights = [y for _, y in line]
        assert (min(heights), max(heights)) == pytest.approx((TOP, HEIGHT - BOTTOM), abs=4)
    assert re.findall("<title>(.*?)</title>", drawing) == [f"1480 at step {length // 2 + 1:,}"] * 2
    assert "above the axis: 1480 at step" in drawing and ">1480</text>" in drawing
    marks = re.findall('<g class="spike">.*?</g>', drawing)
    assert len(marks) == 2 and all("run-0" in mark and "run-1" not in mark for mark in marks)
    smooth = chart("Loss", [curve(*points[: length // 2])], (1, length))
    assert "spike" not in smooth and "above" not in smooth  # a loss that begins high is none
    diverged = [(step, 0.1 if step < 50 else 9.0) for step in range(1, 61)]
    assert "spike" not in chart("Loss", [curve(*diverged)], (1, 60))


def test_what_is_no_number_is_not_drawn(runs: Path) -> None:
    """Catches a NaN in the log that takes the whole plot with it."""
    run = Run(runs / "mdt")
    run.log({"step": 2000, "loss": float("nan")})
    run.log({"step": 2001, "loss": None})
    run.log({"step": 2002, "loss": "0.5"})
    assert list(see(runs).loss)[-1] == (1000, 0.001)
    drawing = chart("Loss", [see(runs).loss, Curve()], (10, 1000))
    assert "nan" not in drawing
    assert [len(points) for points in lines_of(drawing, 0)] == [3, 3]  # on a wide page, and on a narrow one
    assert lines_of(drawing, 1) == []


def test_a_line_of_the_chart_goes_where_its_numbers_say(runs: Path) -> None:
    """Catches axes swapped or upside down, the colour of another run, and a cursor that stands beside its point."""
    lines = curve((10, 1.0), (100, 0.1), (1000, 0.01)), curve((10, 0.1), (1000, 0.1))
    drawing = chart("Loss", lines, (10, 1000))
    for first, second, width in zip(lines_of(drawing, 0), lines_of(drawing, 1), WIDTHS.values(), strict=True):
        left, right, top, bottom = LEFT, width - RIGHT, TOP, HEIGHT - BOTTOM
        middle = (left + right) / 2, (top + bottom) / 2
        assert np.allclose(first, [(left, top), middle, (right, bottom)], atol=0.01)
        assert np.allclose(second, [(left, middle[1]), (right, middle[1])], atol=0.01)
        assert f"--from: {left}; --over: {right - left}" in drawing
    assert "training steps</text>" in drawing and "Loss</text>" in drawing
