"""Comparisons: which cell is drawn when, and where it stands on the grid."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from app.common.comparison import Comparison
from app.compare.grid import empty_grid, footer, join_values, parse_values
from app.engine.engine import Engine
from app.engine.request import Request
from mdt_core.pipeline.labelled_grid import LABEL
from tests.helpers.stand_in import StandInPipeline

BASE = Request("shapes", (None,), (7,), num_inference_steps=3)
LABELS = {0: "circle", 1: "square"}


def test_models_are_named_with_blanks_and_told_apart_by_commas() -> None:
    """Catches "avatars @ 7000" taken for three values."""
    values = parse_values("model", "avatars @ 7000, avatars,  avatars @ 50, ,avatars")
    assert values == ("avatars @ 7000", "avatars", "avatars @ 50")
    assert parse_values("model", join_values(values)) == values
    assert parse_values("num_inference_steps", "5 10, 25") == (5, 10, 25)
    with pytest.raises(ValueError, match="model or checkpoint must be names separated by commas"):
        parse_values("model", "a" * 200_000)  # more than the reader takes


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("guidance_scale", (1.2345678, 4.0, 2.5, 10, 1 + 2**-52)),
        ("guidance_power", (0.01, 0.1 + 0.2, 1e-2 + 1e-9)),
        ("num_inference_steps", (5, 250)),
        ("sampler", ("dpm++", "ddim")),
        ("model", ("lr=1e-3,wd=0 @ 7000", 'the "best", so far', '"', "avatars", "avatars @ 50")),
    ],
)
def test_the_field_of_values_says_exactly_what_was_drawn(axis: str, values: tuple) -> None:
    """Catches a grid from a recipe whose scales lost their last digits, and a run's name that its comma cuts in two."""
    assert parse_values(axis, join_values(values)) == values
    assert join_values((4.0, 2.5, 10)) == "4, 2.5, 10"


def test_models_are_drawn_one_after_the_other_and_land_in_their_own_cells() -> None:
    """Catches a model that is loaded anew for every class, and columns and rows that are swapped on the grid."""
    grid = Comparison(BASE, (0, 1), "model", ("a", "b @ 1", "b @ 2"))
    requests = grid.requests()
    assert [(r.model, r.class_labels[0]) for r in requests] == [
        ("a", 0), ("a", 1), ("b @ 1", 0), ("b @ 1", 1), ("b @ 2", 0), ("b @ 2", 1),
    ]  # fmt: skip
    drawing = empty_grid(grid, LABELS, 32)
    drawing.paste(Image.new("RGB", (8, 8), "red"), *grid.cells()[3])  # square, b @ 1
    x, y = (drawing.corner(1, 1)[axis] + drawing.size[axis] // 2 for axis in (0, 1))
    assert drawing.image.getpixel((x, y)) == (255, 0, 0)
    assert (np.asarray(drawing.image) == (255, 0, 0)).all(-1).sum() == drawing.size[0] ** 2


def test_another_model_draws_the_class_of_that_name() -> None:
    """Two models that number their classes differently. Catches a picture of another class than its row says."""
    models = {
        "a": StandInPipeline({0: "circle", 1: "square"}),
        "b": StandInPipeline({0: "square", 1: "dot", 2: "circle"}),
    }
    engine = Engine({name: name for name in models}, device="cpu", load=models.get)
    grid = Comparison(dataclasses.replace(BASE, model="a"), (0, 1), "model", ("a", "b"))
    pictures = [frame.images[0] for frame in engine.run(grid.requests(LABELS)) if frame.images]
    for column, model in enumerate(("a", "b")):
        for row, label in enumerate((0, 1) if model == "a" else (2, 0)):
            request = dataclasses.replace(BASE, model=model, class_labels=(label,))
            *_, last = engine.run((request,))
            assert last.images[0].tobytes() == pictures[2 * column + row].tobytes()
    lacking = Comparison(dataclasses.replace(BASE, model="b"), (1,), "model", ("b", "a"))
    with pytest.raises(ValueError, match="a has no class 'dot'"):
        list(engine.run(lacking.requests({1: "dot"})))


def test_headings_do_not_run_into_each_other() -> None:
    """Catches names of checkpoints wider than their columns."""
    names = ("mdtv2-12e-3 @ 100000", "mdtv2-12e-3 @ 200000")
    wide = empty_grid(Comparison(BASE, (0,), "model", names), LABELS, 32)
    assert wide.corner(0, 1)[0] - wide.corner(0, 0)[0] > LABEL.length(names[0])
    plain = empty_grid(Comparison(BASE, (0,), "guidance_scale", (1, 2)), LABELS, 32)
    assert plain.corner(0, 1)[0] - plain.corner(0, 0)[0] == plain.size[0] + 8


def test_the_line_below_says_what_all_cells_share_and_no_more() -> None:
    """Catches a model named below that is not the cells' own."""
    assert footer(Comparison(BASE, (0,), "model", ("a",))) == "seed 7 · 3 steps · dpm++ · scale 3.8 · power 4"
    assert footer(Comparison(BASE, (0,), "sampler", ("ddim",))) == "shapes · seed 7 · 3 steps · scale 3.8 · power 4"


@pytest.mark.parametrize("value", [3, None, ("a",)])
def test_a_model_that_is_no_name_is_refused(value: object) -> None:
    """Catches a crash on a stranger's recipe."""
    with pytest.raises(ValueError, match="named by a text"):
        Comparison(BASE, (0,), "model", (value,))
