"""Grids: which cell is drawn when, and where it stands on the sheet."""

import pytest
from PIL import Image

from app.comparison import Comparison, Sheet, footer, join_values, parse_values
from app.request import Request

BASE = Request("shapes", (None,), (7,), num_inference_steps=3)
LABELS = {0: "circle", 1: "square"}


def test_models_are_named_with_blanks_and_told_apart_by_commas() -> None:
    """Catches "avatars @ 7000" taken for three values."""
    values = parse_values("model", "avatars @ 7000, avatars,  avatars @ 50, ,avatars")
    assert values == ("avatars @ 7000", "avatars", "avatars @ 50")
    assert parse_values("model", join_values(values)) == values
    assert parse_values("num_inference_steps", "5 10, 25") == (5, 10, 25)


def test_models_are_drawn_one_after_the_other_and_land_in_their_own_cells() -> None:
    """Catches a model that is loaded anew for every class, and columns and rows that are swapped on the sheet."""
    grid = Comparison(BASE, (0, 1), "model", ("a", "b @ 1", "b @ 2"))
    requests = grid.requests()
    assert [(r.model, r.class_labels[0]) for r in requests] == [
        ("a", 0), ("a", 1), ("b @ 1", 0), ("b @ 1", 1), ("b @ 2", 0), ("b @ 2", 1),
    ]  # fmt: skip
    sheet = Sheet(grid, LABELS, 32)
    sheet.paste(3, Image.new("RGB", (8, 8), "red"))  # square, b @ 1
    x, y = (sheet._corner(1, 1)[axis] + sheet.cell // 2 for axis in (0, 1))
    assert sheet.image.getpixel((x, y)) == (255, 0, 0)
    assert sum(pixel == (255, 0, 0) for pixel in sheet.image.getdata()) == sheet.cell**2


def test_the_line_below_says_what_all_cells_share_and_no_more() -> None:
    """Catches a model named below that is not the cells' own."""
    assert footer(Comparison(BASE, (0,), "model", ("a",))) == "seed 7 · 3 steps · dpm++ · scale 3.8 · power 4"
    assert footer(Comparison(BASE, (0,), "sampler", ("ddim",))) == "shapes · seed 7 · 3 steps · scale 3.8 · power 4"


@pytest.mark.parametrize("value", [3, None, ("a",)])
def test_a_model_that_is_no_name_is_refused(value: object) -> None:
    """Catches a crash on a stranger's recipe."""
    with pytest.raises(ValueError, match="named by a text"):
        Comparison(BASE, (0,), "model", (value,))
