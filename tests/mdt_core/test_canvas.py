"""The way of a picture to the model and back: exact outside the grown mask, for any size, shape and mask."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import distance_transform_edt

from mdt_core.pipeline.canvas import AREAS, Box, _squared_distance, fit_box, fit_canvas

SIZE, CELLS = 32, 8  # of the model: pixels and latent cells along a side


def random_picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_pixels(seed=0):
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2.4 - 1.2


def box_mask(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def fit(picture, mask, **settings):
    return fit_canvas(picture, mask, SIZE, **({"cell": SIZE // CELLS} | settings))


def grown_by_definition(mask, grow):
    return distance_transform_edt(~mask) <= grow


@st.composite
def problems(draw):
    """A picture, a mask of a few boxes and dots, and settings."""
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] = True
    chosen = {
        "area": draw(st.sampled_from(AREAS)),
        "grow": draw(st.integers(0, 12)),
        "feather": draw(st.integers(0, 12)),
    }
    return random_picture(height, width, draw(st.integers(0, 9))), mask, chosen


@settings(max_examples=150, deadline=None)
@given(problems())
def test_nothing_changes_outside_the_grown_mask(problem):
    """The promise of the whole feature: a difference of exactly 0, for any picture, mask, area, grow and feather."""
    picture, mask, chosen = problem
    try:
        canvas = fit(picture, mask, **chosen)
    except ValueError:
        return  # empty, full or less than a cell: refused, tested below
    result = canvas.paste(random_pixels())
    assert result.shape == picture.shape and result.dtype == np.uint8
    outside = ~grown_by_definition(mask, chosen["grow"])
    assert np.array_equal(result[outside], picture[outside])
    assert canvas.picture is picture


@settings(max_examples=100, deadline=None)
@given(problems())
def test_every_cell_that_the_grown_mask_touches_is_repainted(problem):
    """Pixels are pasted only where cells were repainted; cells under paint are repainted from the start."""
    picture, mask, chosen = problem
    try:
        canvas = fit(picture, mask, **chosen)
    except ValueError:
        return
    inside = np.zeros_like(mask)
    box = canvas.box
    inside[max(box.top, 0) : box.top + box.side, max(box.left, 0) : box.left + box.side] = True
    footprint = canvas.footprint(CELLS, CELLS)
    assert footprint[grown_by_definition(mask & inside, chosen["grow"]) & inside].all()
    assert not footprint[~inside].any()
    hardness = canvas.hardness(CELLS, CELLS)
    assert hardness.min() >= 0 and hardness.max() == 1
    assert (canvas.opacity[canvas.painted] == 1).all()  # at corners too, where the staying part is nearest


def test_a_picture_of_the_models_size_keeps_its_pixels():
    """No resampling and no feather: the paint is the new picture, the rest the old one; the model sees the old one."""
    picture, mask, new = random_picture(SIZE, SIZE), box_mask(SIZE, SIZE, 4, 8, 12, 20), random_pixels().clamp(-1, 1)
    canvas = fit(picture, mask, grow=0, feather=0)
    bytes_seen = ((canvas.pixels()[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(bytes_seen, picture)
    assert np.array_equal(canvas.hole().numpy(), mask)
    expected = ((new + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(canvas.paste(new), np.where(mask[..., None], expected, picture))
    cells = np.zeros((CELLS, CELLS))
    cells[1:3, 2:5] = 1
    assert np.array_equal(canvas.hardness(CELLS, CELLS).numpy(), cells)


def test_growing_makes_a_ring_of_softer_cells():
    """One cell painted, grown by one and a half cells: the ring falls with the distance, and ends with the growth."""
    canvas = fit(random_picture(SIZE, SIZE), box_mask(SIZE, SIZE, 16, 16, 20, 20), grow=6)
    row = canvas.hardness(CELLS, CELLS)[4].tolist()
    assert row[4] == 1
    assert 1 > row[3] == row[5] > row[2] == row[6] > 0
    assert row[1] == row[7] == 0


def test_feathering_stays_within_the_ring():
    """The painted part is replaced in full, the share falls outwards, and a wide feather is cut to the ring."""
    picture, mask = np.zeros((SIZE, SIZE, 3), np.uint8), box_mask(SIZE, SIZE, 12, 12, 20, 20)
    for feather in (4, 99):
        line = fit(picture, mask, grow=4, feather=feather).paste(torch.ones(3, SIZE, SIZE))[16, :, 0].tolist()
        assert line[:8] == [0] * 8 and line[12:20] == [255] * 8
        assert line[8:12] == sorted(line[8:12]) and 0 < line[8] < line[11] < 255


def test_areas():
    """A wide picture: a letterbox reaches beyond it, a crop goes to the mask, "masked" to its surroundings."""
    picture, mask = random_picture(100, 300), box_mask(100, 300, 30, 230, 70, 270)
    whole, crop, masked = (fit(picture, mask, area=area, grow=0) for area in AREAS)
    assert whole.box == Box(0, -100, 300)
    assert crop.box == Box(200, 0, 100)
    assert masked.box == Box(210, 10, 80)
    assert whole.pixels().shape == (1, 3, SIZE, SIZE)


def test_a_new_part_fades_at_the_edge_of_its_box():
    """Painted up to the edge of a crop, in the middle of the picture. Catches a seam where the box ends."""
    picture, mask = np.zeros((100, 300, 3), np.uint8), box_mask(100, 300, 30, 100, 70, 198)
    canvas = fit(picture, mask, area="crop", grow=10, feather=5)
    line = canvas.paste(torch.ones(3, SIZE, SIZE))[50, :, 0]
    end = canvas.box.left + canvas.box.side
    assert end < 300 and line[end] == 0 and 0 < line[end - 1] < 80
    assert fit(picture, mask, area="crop", grow=0).opacity.min() in (0, 1)


def test_a_letterbox_repeats_the_edge():
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:8] = 255
    canvas = fit(picture, box_mask(16, 48, 1, 0, 8, 8), grow=0)
    assert (canvas.pixels()[0, :, 4] > 0.99).all() and (canvas.pixels()[0, :, -4] < -0.99).all()
    assert canvas.hardness(CELLS, CELLS)[:2].max() == 0  # what is beyond the picture is held, not repainted


@pytest.mark.parametrize("area", ["whole", "masked"])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_what_is_removed_at_the_edge_is_not_shown_beyond_it(area, turn):
    """A red block at one edge of a letterboxed picture, masked. Catches its streaks in the bars, held as known."""
    mask = box_mask(60, 120, 20, 50, 60, 76)
    picture = np.where(mask[..., None], [255, 0, 0], 255).astype(np.uint8)
    picture, mask = np.rot90(picture, turn).copy(), np.rot90(mask, turn).copy()
    canvas = fit(picture, mask, area=area, grow=0, feather=0)
    red = canvas.pixels()[0, 1] < 0  # more than half
    assert red.any() and canvas.hole()[red].all()
    cells = canvas.hardness(CELLS, CELLS).repeat_interleave(SIZE // CELLS, 0).repeat_interleave(SIZE // CELLS, 1)
    assert (cells[red] == 1).all() and (cells == 0).any()


@pytest.mark.parametrize("limit", [0, 1, 5, 40])
def test_distance_agrees_with_scipy(limit):
    mask = np.random.default_rng(0).random((50, 70)) < 0.003
    exact = distance_transform_edt(~mask)
    ours = np.sqrt(_squared_distance(mask, limit))
    near = exact <= limit
    assert np.allclose(ours[near], exact[near])
    assert (ours[~near] > limit).all()


def test_a_large_picture_takes_a_small_window():
    """8192 x 8192 with a small mask: only the window is worked on; catches a float copy of the whole picture."""
    picture, mask = np.zeros((8192, 8192, 3), np.uint8), np.zeros((8192, 8192), bool)
    mask[4000:4300, 100:500] = True
    canvas = fit(picture, mask, area="masked")
    assert canvas.opacity.nbytes < 2e6
    assert canvas.paste(random_pixels()).shape == picture.shape


@pytest.mark.parametrize("shape", [(60, 6000), (6000, 60)])
def test_a_long_picture_takes_no_square_of_its_length(shape):
    """A megabyte that the letterbox makes a square of 108: neither what the model sees nor the result needs it."""
    picture = random_picture(*shape)
    tracemalloc.start()
    canvas = fit(picture, box_mask(*shape, 0, 0, *(n // 2 for n in shape)), cell=0)
    seen, result = canvas.pixels(), canvas.paste(random_pixels())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen.shape == (1, 3, SIZE, SIZE) and result.shape == picture.shape
    assert peak < 30e6


def test_a_long_picture_is_seen_as_its_padded_square():
    """The edges repeated to a square, and that brought to the model's size: side by side, up to rounding."""
    for shape in ((20, 64), (64, 20)):
        picture = random_picture(*shape) // 2 + 64
        rows, columns = (np.arange(64).clip((64 - n) // 2, (64 - n) // 2 + n - 1) - (64 - n) // 2 for n in shape)
        square = Image.fromarray(picture[rows][:, columns]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        canvas = fit(picture, box_mask(*shape, 4, 4, 14, 14))
        seen = (canvas.pixels()[0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(seen - np.asarray(square, float)).max() <= 2


def test_a_mask_as_wide_as_the_crop_fits():
    mask = box_mask(100, 300, 10, 37, 90, 137)
    assert fit_box(mask, SIZE, area="crop") == Box(37, 0, 100)


@pytest.mark.parametrize(
    ("mask", "changes", "words"),
    [
        (np.zeros((40, 40), bool), {}, "empty"),
        (np.ones((40, 40), bool), {}, "whole picture"),
        (np.ones((40, 41), bool), {}, "41 x 40 pixels, the picture 40 x 40"),
        (box_mask(40, 40, 3, 3, 5, 5), {}, "less than one"),
        (box_mask(40, 40, 3, 3, 20, 20), {"grow": -1}, "grow"),
        (box_mask(40, 40, 3, 3, 20, 20)[:10], {"area": "crop"}, "beyond the crop"),
        (box_mask(40, 40, 3, 3, 20, 20), {"grow": 129}, "grow"),
        (box_mask(40, 40, 3, 3, 20, 20), {"feather": -1}, "feather"),
        (box_mask(40, 40, 3, 3, 20, 20), {"area": "half"}, "whole, crop, masked"),
        (box_mask(40, 40, 3, 3, 20, 20), {"grow": 2.5}, "grow must be 0 to 128 whole pixels"),
        (box_mask(40, 40, 3, 3, 20, 20), {"feather": float("nan")}, "feather must be 0 whole pixels or more"),
    ],
)
def test_impossible_masks_and_numbers_are_refused(mask, changes, words):
    with pytest.raises(ValueError, match=words):
        fit(random_picture(len(mask), 40), mask, **changes)


def test_a_tiny_picture_is_refused():
    with pytest.raises(ValueError, match="1 x 1 pixels"):
        fit(random_picture(1, 1), np.ones((1, 1), bool))
