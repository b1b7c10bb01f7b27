"""Painting: every shape of the editor's value becomes the mask that was painted, and what is shown tells the truth."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.inpaint.footprint import CELLS, draw_footprint, small_canvas
from app.inpaint.masks import enlarge, open_mask, reduce, to_image
from app.inpaint.source_image import DISPLAY_SIDE, OPACITY, PAINT, SourceImage, editor_value, fit_within, painted_mask

SIZE = (24, 16)  # W, H
PICTURE = Image.effect_noise(SIZE, 80).convert("RGB")


def layer(alpha: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A layer whose left half is painted with this alpha."""
    image = Image.new("RGBA", size, (*PAINT, 0))
    image.paste((*PAINT, alpha), (0, 0, size[0] // 2, size[1]))
    return image


HALF = np.arange(24)[None].repeat(16, 0) < 12


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"background": None, "layers": [], "composite": None},
        {"background": PICTURE, "layers": [], "composite": None},
        {"background": PICTURE, "layers": None, "composite": None},
        {"background": PICTURE, "layers": [layer(0)], "composite": PICTURE},
    ],
    ids=["nothing", "no keys", "no picture", "set by the server", "no layers", "an unpainted upload"],
)
def test_nothing_painted_is_an_empty_mask(value: dict | None) -> None:
    """The shapes an unpainted editor sends: catches a mask from the background's alpha, and an exception on None."""
    mask = painted_mask(value, SIZE)
    assert mask.shape == SIZE[::-1]
    assert mask.dtype == bool
    assert not mask.any()


@pytest.mark.parametrize("alpha", [1, 127, OPACITY, 255])
def test_paint_of_any_opacity_counts(alpha: int) -> None:
    """A half-transparent brush gives alpha 127: catches `> 127`, and a brush's soft rim that is left out."""
    assert (painted_mask({"layers": [layer(alpha)]}, SIZE) == HALF).all()


def test_layers_add_up_and_are_brought_to_the_picture() -> None:
    """Catches a mask of the last layer alone, and one of the picture that was there before."""
    right = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    right.paste((1, 2, 3, 9), (20, 0, 24, 16))
    mask = painted_mask({"layers": [layer(90), right]}, SIZE)
    assert (mask == (HALF | (np.arange(24) >= 20))).all()
    assert (painted_mask({"layers": [layer(90, (48, 32))]}, SIZE) == HALF).all()


def test_a_mask_goes_into_the_editor_and_comes_back() -> None:
    """Catches a mask that shifts, inverts or grows on its way, and one that hides the picture."""
    value = editor_value(PICTURE, HALF)
    assert (painted_mask(value, SIZE) == HALF).all()
    assert value["background"].tobytes() == PICTURE.tobytes()
    assert value["composite"] is None
    (painted,) = value["layers"]
    assert painted.getpixel((0, 0)) == (*PAINT, OPACITY)
    assert editor_value(PICTURE, ~HALF & HALF)["layers"] == []


def test_a_source_image_keeps_the_picture_and_shows_a_copy() -> None:
    """Catches a picture that is compressed or scaled, and a folder that stays behind."""
    large = Image.effect_noise((DISPLAY_SIDE * 2, 300), 80).convert("RGB")
    source = SourceImage(large, "photo")
    assert source.image().tobytes() == large.tobytes()
    assert (source.size, source.display_size, source.display().size) == (
        large.size,
        (DISPLAY_SIDE, 150),
        (DISPLAY_SIDE, 150),
    )
    small = SourceImage(PICTURE)
    assert small.display().tobytes() == PICTURE.tobytes()
    folder = Path(source._folder.name)
    assert folder.is_dir()
    del source
    assert not folder.exists()
    with pytest.raises(ValueError, match="The picture has 1 x 1 pixels: it takes at least 8"):
        SourceImage(Image.new("RGB", (1, 1)))


def test_a_mask_that_was_set_keeps_its_pixels() -> None:
    """3000 px wide, shown at 1024: catches a mask that grows by its way through the editor, and a lost stroke."""
    source = SourceImage(Image.new("RGB", (3000, 2000)))
    laid = np.random.default_rng(0).random((2000, 3000)) < 0.001
    laid[700:900, 1001:1999] = True
    shown = source.set_mask(laid)
    assert shown.shape == source.display_size[::-1] and np.array_equal(source.mask(shown), laid)
    painted, erased = shown.copy(), shown.copy()
    painted[:20, :20] = True
    erased[:, :500] = False
    cut = enlarge(erased, source.size)
    assert np.array_equal(source.mask(painted), laid | enlarge(painted & ~shown, source.size))
    assert np.array_equal(source.mask(erased), laid & cut) and not source.mask(erased)[:, :1400].any()
    assert np.array_equal(source.mask(source.set_mask(~source.mask(shown))), ~laid), "inverted"
    assert not source.mask(source.set_mask(None)).any()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (64, 64)), ((8192, 8192), (1024, 1024)), ((8192, 16), (1024, 8)), ((9, 3000), (8, 1024))],
)
def test_the_copys_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    """Catches a panorama whose copy has no height left."""
    assert fit_within(size, DISPLAY_SIDE) == shown


def save(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_a_mask_is_opened_from_any_mode(tmp_path: Path) -> None:
    """Catches masks of 1, 16 bits or colour that turn black, and transparency that counts as white."""
    expected = to_image(HALF)
    deep = Image.fromarray(HALF.astype(np.uint16) * 65535)
    for i, image in enumerate([expected, expected.convert("1"), expected.convert("RGB"), deep]):
        assert (open_mask(save(tmp_path / f"{i}.png", image), SIZE) == HALF).all(), image.mode
    strokes = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 12, 16))
    assert (open_mask(save(tmp_path / "rgba.png", strokes), SIZE) == HALF).all()
    grey = Image.fromarray(np.where(HALF, 128, 127).astype(np.uint8))
    assert (open_mask(save(tmp_path / "grey.png", grey), SIZE) == HALF).all()


def test_a_mask_is_turned_upright_like_its_picture(tmp_path: Path) -> None:
    """A camera's orientation: catches a transparent mask that stays on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for mode in ("L", "RGBA"):
        mask = to_image(HALF).convert(mode)
        if mode == "RGBA":
            mask.putalpha(to_image(HALF))
        mask.save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(open_mask(tmp_path / "turned.png", SIZE[::-1]), np.rot90(HALF, -1)), mode


def test_a_mask_of_another_size_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    """Catches a mask that is stretched silently, and a decoder's exception."""
    with pytest.raises(ValueError, match="The mask has 16 x 24 pixels, the picture 24 x 16: make them the same size"):
        open_mask(save(tmp_path / "a.png", Image.new("L", (16, 24))), SIZE)
    for mode in ("L", "RGBA"):
        buffer = io.BytesIO()
        Image.effect_noise(SIZE, 80).convert(mode).save(buffer, "PNG")
        (tmp_path / "b.png").write_bytes(buffer.getvalue()[:-200])
        with pytest.raises(ValueError, match="damaged or cut short"):
            open_mask(tmp_path / "b.png", SIZE)


def test_masks_change_their_size_without_loss() -> None:
    """Catches a thin stroke that vanishes from the preview, and a small rest that turns into "all painted"."""
    assert (enlarge(HALF, (240, 160)) == np.kron(HALF, np.ones((10, 10), bool))).all()
    thin = np.zeros((160, 240), bool)
    thin[80, 100] = True
    assert reduce(thin, SIZE).sum() == 1
    assert (~reduce(~thin, SIZE)).sum() == 1
    assert reduce(HALF, SIZE) is HALF
    dot = np.zeros((60, 30_000), bool)
    dot[31, 12_345] = True
    assert reduce(dot, (1024, 8)).sum() == 1, "a hundredth of a pixel, but not lost"


@pytest.mark.parametrize("area", ["whole", "crop", "masked"])
def test_the_small_canvas_is_the_large_one_seen_from_afar(area: str) -> None:
    """Catches a box or a grown edge that is not scaled with the picture."""
    picture = Image.effect_noise((960, 640), 80).convert("RGB")
    mask = np.zeros((640, 960), bool)
    mask[200:320, 240:400] = True
    settings = {"size": 64, "area": area, "grow": 32, "feather": 16, "cell": 8}
    large = small_canvas(picture, mask, 960, **settings)
    small = small_canvas(picture, mask, 240, **settings)
    assert large.picture.shape == (640, 960, 3)
    assert small.picture.shape == (160, 240, 3)
    assert abs(small.box.side * 4 - large.box.side) <= 8
    assert abs(small.box.left * 4 - large.box.left) <= 8
    far = large.footprint(8, 8)[2::4, 2::4]
    assert (small.footprint(8, 8) != far).mean() < 0.06


def test_the_view_shows_new_pixels_and_cells_and_leaves_the_rest() -> None:
    """Catches an overlay that is shifted, or colours what does not change, and a token that is not outlined."""
    picture = Image.new("RGB", (64, 64), (120, 120, 120))
    mask = np.zeros((64, 64), bool)
    mask[20:36, 20:36] = True
    canvas = small_canvas(picture, mask, 640, 64, area="whole", grow=2, feather=2, cell=8)
    view = np.asarray(draw_footprint(canvas, 8, 4)).astype(int)
    changed = (view != 120).any(-1)
    lines = np.zeros((64, 64), bool)
    lines[16:49:16, 16:49] = lines[16:49, 16:49:16] = True  # four tokens of 16 pixels
    assert (changed == canvas.footprint(8, 8) | lines).all()
    assert (view[lines & ~canvas.footprint(8, 8)] == CELLS).all()
    assert view[28, 28, 0] < 80, "painted: teal"
    assert view[17, 17, 0] > 120, "a cell that the grown mask touches: amber"
    assert (view[:16][~lines[:16]] == 120).all()
