"""Comparisons: which cell is drawn of what and when, and where it stands on the grid."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from app.common.comparison import Comparison, Side
from app.compare.grid import empty_grid, footer, join_values, parse_values, sheet
from app.compare.tab import GridJob
from app.engine.engine import Engine
from app.engine.request import Request
from mdt_core.pipeline.labelled_grid import LABEL
from tests.helpers.stand_in import LABELS, StandInPipeline, draw

BASE = Request("shapes", (None,), (7,), num_inference_steps=3)
CLASSES = Side("class", (0, 1))
MODELS = Side("model", ("a", "b @ 1", "b @ 2"))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("guidance_scale", (1.2345678, 4.0, 2.5, 10, 1 + 2**-52)),
        ("guidance_power", (0.01, 0.1 + 0.2, 1e-2 + 1e-9)),
        ("num_inference_steps", (5, 250)),
        ("seed", (0, 2**31 - 1, 1234567890)),
    ],
)
def test_the_field_of_values_says_exactly_what_was_drawn(axis: str, values: tuple) -> None:
    """Catches a grid from a recipe whose scales lost their last digits, or whose seeds came back in six."""
    assert parse_values(axis, join_values(values)) == values


def test_numbers_are_read_as_they_are_typed() -> None:
    """Catches a value that is drawn twice, and a message that does not say which field is meant."""
    assert parse_values("num_inference_steps", "5 10,, 25, 5") == (5, 10, 25)
    assert join_values((4.0, 2.5, 10)) == "4, 2.5, 10"
    with pytest.raises(ValueError, match=r"^Steps: give whole numbers separated by commas, not '5, 2\.5'\.$"):
        parse_values("num_inference_steps", "5, 2.5")
    with pytest.raises(ValueError, match=r"^Guidance scale: give numbers separated by commas, not 'one'\.$"):
        parse_values("guidance_scale", "one")


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (CLASSES, Side("sampler", ()), "Rows: give at least one value for the sampler"),
        (Side("class", ()), Side("seed", (1,)), "Columns: give at least one value for the class"),
        (CLASSES, Side("class", (2,)), "Columns and rows both vary the class: choose another for one"),
        (CLASSES, Side("sampler", ("euler",)), "no sampler 'euler'"),
        (CLASSES, Side("guidance_scale", (1.0, 11.0)), "guidance scale must be a number from 1 to 10, not 11"),
        (
            Side("sampler", ("ddpm", "dpm++")),
            Side("num_inference_steps", (251,)),
            "for dpm.. must be .* to 250, not 251",
        ),
        (Side("seed", (1, -1)), CLASSES, "The seed must be a whole number"),
        (Side("seed", tuple(range(8))), Side("class", tuple(range(9))), "9 rows of 8 are too many: at most 64 cells"),
        (Side("eta", (1,)), CLASSES, "Columns: a grid can vary class, seed"),
        (Side("model", (3,)), CLASSES, "named by a text"),
    ],
)
def test_a_grid_out_of_range_is_refused(columns: Side, rows: Side, words: str) -> None:
    """Catches an error in the middle of a run that could have been told before it."""
    with pytest.raises(ValueError, match=words):
        Comparison(BASE, columns, rows)


def test_a_sampler_and_its_steps_are_set_together() -> None:
    """Catches steps of before that a sampler does not take, where the steps vary, too."""
    base = Request("shapes", (None,), (7,), num_inference_steps=1000, sampler="ddpm")
    grid = Comparison(base, Side("sampler", ("dpm++",)), Side("num_inference_steps", (10,)))
    assert (grid.request(0, 0).sampler, grid.request(0, 0).num_inference_steps) == ("dpm++", 10)


def test_cells_of_the_same_settings_are_drawn_together() -> None:
    """Nine pictures in three runs. Catches cells in another's place, and a run of more images than one can have."""
    grid = Comparison(BASE, Side("class", (0, 1, 2)), Side("guidance_scale", (1.0, 4.0)))
    (first, first_cells), (second, _) = grid.batches()
    assert (first.class_labels, first.seeds, first.guidance_scale) == ((0, 1, 2), (7, 7, 7), 1.0)
    assert first_cells == [(0, 0), (0, 1), (0, 2)] and second.guidance_scale == 4.0
    many = Comparison(BASE, Side("seed", tuple(range(8))), Side("class", (0, None, ((0, 0.5), (1, 0.5)))))
    assert [len(cells) for _, cells in many.batches()] == [16, 8]
    for request, cells in many.batches():
        for (row, column), label, seed in zip(cells, request.class_labels, request.seeds, strict=True):
            assert (label, seed) == (many.rows.values[row], many.columns.values[column])


def test_a_picture_lands_in_its_own_cell() -> None:
    """Catches columns and rows that are swapped, on the page or in the file."""
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    job = GridJob(Comparison(BASE, CLASSES, Side("seed", (1, 2, 3))))
    job.start(engine.describe("shapes"))
    for frame in engine.run(job.requests):
        job.add(frame)
    assert job.done == job.total == 6
    side = job.grid.size[0]
    for row, column in ((0, 1), (2, 0), (1, 1)):
        (picture,) = draw(engine, job.comparison.request(row, column))
        x, y = job.grid.corner(row, column)
        drawn = job.grid.image.crop((x, y, x + side, y + side))
        assert np.array_equal(np.asarray(drawn), np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))
    assert len({source for line in job.sources for source in line}) == 6


def test_models_are_drawn_one_after_the_other_and_land_in_their_own_cells() -> None:
    """Catches a model that is loaded anew for every class."""
    batches = Comparison(BASE, MODELS, Side("guidance_scale", (1.0, 2.0))).batches()
    assert [(request.model, request.guidance_scale, cells) for request, cells in batches] == [
        ("a", 1.0, [(0, 0)]), ("a", 2.0, [(1, 0)]), ("b @ 1", 1.0, [(0, 1)]), ("b @ 1", 2.0, [(1, 1)]),
        ("b @ 2", 1.0, [(0, 2)]), ("b @ 2", 2.0, [(1, 2)]),
    ]  # fmt: skip


def test_another_model_draws_the_class_of_that_name() -> None:
    """Two models that number their classes differently. Catches a picture of another class than its row says."""
    models = {
        "a": StandInPipeline({0: "circle", 1: "square"}),
        "b": StandInPipeline({0: "square", 1: "dot", 2: "circle"}),
    }
    engine = Engine({name: name for name in models}, device="cpu", load=models.get)
    mix = ((0, 0.5), (1, 0.5))
    base = dataclasses.replace(BASE, model="a")
    grid = Comparison(base, Side("model", ("a", "b")), Side("class", (0, 1, mix)))
    for request, cells in grid.batches({0: "circle", 1: "square"}):
        own = {0: 2, 1: 0, mix: ((2, 0.5), (0, 0.5))} if request.model == "b" else {0: 0, 1: 1, mix: mix}
        for picture, (row, _) in zip(draw(engine, request), cells, strict=True):
            label = own[grid.rows.values[row]]
            (expected,) = draw(engine, dataclasses.replace(base, model=request.model, class_labels=(label,)))
            assert expected.tobytes() == picture.tobytes()
    lacking = Comparison(dataclasses.replace(BASE, model="b"), Side("model", ("b", "a")), Side("class", (1,)))
    with pytest.raises(ValueError, match="a has no class 'dot'"):
        list(engine.run([request for request, _ in lacking.batches({1: "dot"})]))


def test_headings_do_not_run_into_each_other() -> None:
    """Catches names of checkpoints wider than their columns."""
    names = ("mdtv2-12e-3 @ 100000", "mdtv2-12e-3 @ 200000")
    wide = empty_grid(Comparison(BASE, Side("model", names), CLASSES), LABELS, 32)
    assert wide.corner(0, 1)[0] - wide.corner(0, 0)[0] > LABEL.length(names[0])
    plain = empty_grid(Comparison(BASE, Side("guidance_scale", (1, 2)), CLASSES), LABELS, 32)
    assert plain.corner(0, 1)[0] - plain.corner(0, 0)[0] == plain.size[0] + 8


def test_the_line_below_says_what_all_cells_share_and_no_more() -> None:
    """Catches a model named below that is not the cells' own."""
    assert footer(Comparison(BASE, MODELS, CLASSES), LABELS) == "seed 7 · dpm++ · 3 steps · scale 3.8 · power 4"
    grid = Comparison(BASE, Side("sampler", ("ddim",)), Side("seed", (1,)))
    assert footer(grid, LABELS) == "shapes · no class · 3 steps · scale 3.8 · power 4"


def test_the_page_escapes_names_and_opens_what_is_drawn() -> None:
    """Catches a class called <b>, and a cell without a picture that can be opened."""
    grid = Comparison(BASE, Side("class", (3, ((0, 3), (1, 1)))), Side("guidance_power", (0.5,)))
    page = sheet(grid, LABELS, [["data:,x", None]], done=True)
    assert "star &lt;b&gt;" in page and "<b>" not in page and "circle 75% + square 25%" in page
    assert page.count("<button") == 1 and 'alt="power 0.5, star &lt;b&gt;: open in Generate"' in page
    assert "<button" not in sheet(grid, LABELS, [["data:,x", None]], done=False)
