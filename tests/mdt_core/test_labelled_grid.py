"""Labelled grids: what stands where, what is cut, and which letters are drawn."""

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from mdt_core.pipeline import fonts
from mdt_core.pipeline.fonts import NO_LETTER, Font, spelled
from mdt_core.pipeline.labelled_grid import LABEL, NOTE, TITLE, LabelledGrid

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def plain(colour: tuple[int, int, int], side: int = 40) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def box(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
    """Left, top, width and height of what is of a colour, and how many pixels are."""
    ys, xs = np.nonzero((np.asarray(image) == colour).all(-1))
    return xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1, len(xs)


def test_every_picture_stands_in_its_row_and_column() -> None:
    """Catches rows and columns swapped, pictures on top of each other, and one that is scaled though nobody asked."""
    grid = LabelledGrid(
        [[plain(RED), None], [plain(GREEN, 20), "gone"]], row_labels=["a", "b"], column_labels=["1", "2"]
    )
    assert grid.size == (40, 40)
    assert box(grid.image, RED) == (*grid.corner(0, 0), 40, 40, 1600)
    assert box(grid.image, GREEN) == (grid.corner(1, 0)[0] + 10, grid.corner(1, 0)[1], 20, 20, 400)
    grid.paste(plain(BLUE), 1, 1)
    assert box(grid.image, BLUE) == (*grid.corner(1, 1), 40, 40, 1600)
    (left, top), (right, bottom) = grid.corner(0, 0), grid.corner(1, 1)
    assert right - left == bottom - top == 48
    scaled = LabelledGrid([[plain(RED, 8)]], (40, 40), resample=Image.Resampling.NEAREST)
    assert box(scaled.image, RED) == (*scaled.corner(0, 0), 40, 40, 1600)


def test_a_missing_picture_says_why_and_a_short_row_ends() -> None:
    """Catches a place that nobody can tell from paper, a reason that is not told, and a ragged set that is refused."""
    looks = [LabelledGrid([[plain(RED), plain(RED)], row], (40, 40)).image for row in ([plain(RED)], [None, None])]
    spoken = LabelledGrid([[plain(RED), plain(RED)], ["it is gone", None]], (40, 40)).image
    assert len({look.tobytes() for look in (*looks, spoken)}) == 3
    assert len({look.size for look in (*looks, spoken)}) == 1
    assert looks[0].getpixel((looks[0].width - 20, looks[0].height - 20)) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one cell"):
        LabelledGrid([])
    with pytest.raises(ValueError, match="needs a size"):
        LabelledGrid([[None]])
    with pytest.raises(ValueError, match="1 row labels and 3 column labels do not match a grid of 2 rows"):
        LabelledGrid([[plain(RED)] * 2] * 2, row_labels=["a"], column_labels=["a", "b", "c"])


def test_long_labels_stay_in_their_column() -> None:
    """Catches captions that run over their neighbours or make the frames of a film differ in size."""
    cells = [[plain(RED), plain(BLUE)]]
    grids = [LabelledGrid(cells, column_labels=[name, "b"], title=name) for name in ("a", "fifty letters " * 9)]
    assert grids[0].image.size == grids[1].image.size
    assert box(grids[1].image, BLUE)[-1] == 1600
    ink = np.asarray(grids[1].image).min(-1) < 128
    (left, top), right = grids[1].corner(0, 0), grids[1].corner(0, 1)[0]
    assert ink[top - 20 : top, left + 41 : right].sum() == 0


def test_a_label_can_stand_over_several_columns() -> None:
    """Catches columns of two kinds that nobody can tell apart, and a label that is cut to the first of its columns."""
    name = "nearest in pixels"
    grid = LabelledGrid([[plain(RED)] * 5], column_labels=["one", name, None, None, "two"])
    x = [grid.corner(0, column)[0] for column in range(5)]
    assert np.diff(x).tolist() == [64, 48, 48, 64]
    ink = np.nonzero((np.asarray(grid.image).min(-1) < 128)[: grid.corner(0, 0)[1]].any(0))[0]
    over = ink[(ink >= x[1] - 8) & (ink <= x[3] + 48)]
    assert abs(np.ptp(over) - LABEL.length(name)) < 6
    assert abs(over.mean() - (x[1] + x[3] + 40) / 2) < 6


def test_wide_columns_hold_their_labels() -> None:
    """Catches names of checkpoints that run into each other where they decide how wide a column is."""
    names = ["mdtv2-12e-3 @ 100000", "mdtv2-12e-3 @ 200000"]
    wide = LabelledGrid([[plain(RED)] * 2], column_labels=names, widen=True)
    assert wide.corner(0, 1)[0] - wide.corner(0, 0)[0] > LABEL.length(names[0])
    assert wide.image.width > 2 * LABEL.length(names[0])


def test_names_are_drawn_in_their_own_letters() -> None:
    """Class names of people's own folders. Catches boxes in place of their letters."""
    for font in (LABEL, TITLE, NOTE):
        assert [letter for letter in "éüßñÅłčŞжЯβΩ·–…×" if not font.has(letter)] == []
        assert not font.has(NO_LETTER)


def test_a_machine_without_the_font_draws_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a library that cannot be imported where matplotlib is not installed."""
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    monkeypatch.setattr(fonts, "NAME", "no such font.ttf")
    assert Font(14).length("square") > 0


@pytest.mark.parametrize("by_name", [True, False])
def test_letters_of_other_scripts_come_from_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    """A stand-in for a Chinese font: one letter, a bar. Catches boxes, and Latin letters taken from that font, too."""
    monkeypatch.setattr(fonts, "FALLBACKS", ("no such font.ttf", str(tmp_path / "bar.ttf"))[: 1 + by_name])
    monkeypatch.setattr(fonts, "_file_with", lambda letter: "" if by_name else str(tmp_path / "bar.ttf"))
    bar = TTGlyphPen(None)
    for step, point in enumerate([(100, 0), (100, 800), (900, 800), (900, 0)]):
        bar.lineTo(point) if step else bar.moveTo(point)
    bar.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "bar", "a"])
    builder.setupCharacterMap({ord("猫"): "bar", ord("a"): "a"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "bar": bar.glyph(), "a": TTGlyphPen(None).glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "bar": (1000, 100), "a": (3000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupPost()
    builder.save(tmp_path / "bar.ttf")

    font = Font(20)
    assert font.has("猫")
    assert not font.has("犬")
    assert font.length("a猫a") == 2 * font.length("a") + 20
    assert font.length("a犬") == font.length("a[72AC]")
    assert font.cut("猫" * 9, 65) == "猫猫…"
    monkeypatch.setattr("mdt_core.pipeline.labelled_grid.LABEL", font)
    grid = LabelledGrid([[plain(RED)]], row_labels=["a猫"])
    ink = (np.asarray(grid.image).max(-1) < 128)[:, : grid.corner(0, 0)[0]]
    assert ink.sum() > 16 * 16  # the bar, which no letter of 20 pixels has as many of


def test_letters_that_no_font_has_are_spelled() -> None:
    """Catches class names that are rows of boxes, all alike, on a machine without fonts for them."""
    words = {"고양이": "goyangi", "ねこ": "neko", "猫": "[732B]", "\U0001f63a": "[1F63A]", "\u0e34": ""}
    assert {word: "".join(map(spelled, word)) for word in words} == words
