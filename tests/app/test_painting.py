"""Painting: what the painter sends becomes the mask that was painted, and what is shown tells the truth."""

import io
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.common.images import publish_picture
from app.inpaint.footprint import CELLS, draw_footprint, gains_detail
from app.inpaint.masks import enlarge, open_mask, reduce, to_image
from app.inpaint.painter import Painted, Painter, mask_of
from app.inpaint.request import InpaintRequest
from app.inpaint.source_image import DISPLAY_SIDE, SourceImage, fit_within
from app.ui import launch_options

SIZE = (24, 16)  # W, H
PICTURE = Image.effect_noise(SIZE, 80).convert("RGB")


HALF = np.arange(24)[None].repeat(16, 0) < 12


def sent(page: Painter, value: dict, **change: object) -> Painted:
    """What a browser sends back of a value that it was sent."""
    return page.preprocess(page.postprocess(value) | change)


@pytest.fixture
def page() -> Painter:
    return Painter(render=False)


@pytest.mark.parametrize("payload", [None, "", {}, [], {"picture": None, "mask": None}])
def test_nothing_painted_is_an_empty_mask(page: Painter, payload: object) -> None:
    """The shapes that an empty painter sends: catches an exception on them."""
    assert page.preprocess(payload) is None and page.postprocess(None) is None
    source = SourceImage(PICTURE)
    for painted in (None, sent(page, page.show(source))):
        mask = mask_of(painted, source)
        assert mask.shape == SIZE[::-1] and mask.dtype == bool and not mask.any()


def test_a_mask_goes_into_the_painter_and_comes_back(page: Painter) -> None:
    """Catches a mask that shifts, inverts or grows on its way, a scaled picture, and one that is not shown again."""
    source = SourceImage(PICTURE)
    value = page.show(source, HALF)
    assert Image.open(value["picture"]).convert("RGB").tobytes() == PICTURE.tobytes()
    assert (mask_of(sent(page, value), source) == HALF).all()
    assert value["turn"] < page.show(source, HALF)["turn"]
    painted = {"path": publish_picture(to_image(~HALF), "mask", page)}
    assert (mask_of(sent(page, value, mask=painted), source) == ~HALF).all()
    with pytest.raises(ValueError, match="The mask has 24 x 16 pixels, the picture 16 x 24"):
        mask_of(sent(page, value), SourceImage(PICTURE.transpose(Image.Transpose.ROTATE_90)))


def test_the_painters_style_stays_its_own() -> None:
    """Its rules name `button` and `input`. Catches a style that Gradio is also told of for the whole page."""
    assert ".canvas-box" in Painter(render=False).css_template and ".canvas-box" not in launch_options()["css"]


@pytest.mark.parametrize("key", ["picture", "mask", "overlay"])
def test_files_of_the_server_cannot_be_named(page: Painter, tmp_path: Path, key: str) -> None:
    """A raw request, with Gradio's mark of a file or without: catches a painter that opens whatever is named."""
    value = page.show(SourceImage(PICTURE), HALF)
    secret = str(save(tmp_path / "secret.png", to_image(HALF)))
    for file in ({"path": secret}, {"path": secret, "meta": {"_type": "gradio.FileData"}}, secret, 5):
        with pytest.raises(gr.Error, match="have to be sent as files"):
            sent(page, value, **{key: file})


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
    """3000 px wide, shown at 2048: catches a mask that grows by its way through the page, and a lost stroke."""
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
    assert np.array_equal(source.mask(erased), laid & cut) and not source.mask(erased)[:, :700].any()
    assert np.array_equal(source.mask(source.set_mask(~source.mask(shown))), ~laid), "inverted"
    assert not source.mask(source.set_mask(None)).any()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (64, 64)), ((8192, 8192), (2048, 2048)), ((8192, 16), (2048, 8)), ((9, 3000), (8, 2048))],
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
    request = InpaintRequest("a", (0,), (0,), image=picture, mask=mask, area=area, grow=32, feather=16)
    large, small = (request.small_canvas(64, 8, side) for side in (960, 240))
    assert large.picture.shape == (640, 960, 3)
    assert small.picture.shape == (160, 240, 3)
    assert abs(small.box.side * 4 - large.box.side) <= 8
    assert abs(small.box.left * 4 - large.box.left) <= 8
    far = large.footprint(8, 8)[2::4, 2::4]
    assert (small.footprint(8, 8) != far).mean() < 0.06


@pytest.mark.parametrize("copy", [1, 4])
def test_a_small_part_of_a_large_picture_is_better_repainted_by_itself(copy: int) -> None:
    """Looked at on pictures of 1,024 px for a model of 128: up to 240 px wide a part gains. Catches advice for all."""

    def gains(width: int, size: int = 1024, area: str = "whole") -> bool:
        mask = np.zeros((size // copy, size // copy), bool)
        mask[100 // copy :, 100 // copy :][: width // copy, : width // copy] = True
        return gains_detail(mask, (size, size), 128, area, 8)

    assert [gains(width) for width in (96, 240, 320, 420)] == [True, True, False, False]
    assert gains(96, area="crop") and not gains(96, area="masked")
    assert gains(32, size=256) and not gains(32, size=240) and not gains(0)


def test_the_view_shows_new_pixels_and_cells_and_leaves_the_rest() -> None:
    """Catches an overlay that is shifted, or colours what does not change, and a token that is not outlined."""
    picture = Image.new("RGB", (64, 64), (120, 120, 120))
    mask = np.zeros((64, 64), bool)
    mask[20:36, 20:36] = True
    request = InpaintRequest("a", (0,), (0,), image=picture, mask=mask, grow=2, feather=2)
    canvas = request.small_canvas(64, 8, 640)
    overlay = draw_footprint(canvas, 8, 4)
    view = np.asarray(Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")).astype(int)
    changed = (view != 120).any(-1)
    lines = np.zeros((64, 64), bool)
    lines[16:49:16, 16:49] = lines[16:49, 16:49:16] = True  # four tokens of 16 pixels
    assert (changed == canvas.footprint(8, 8) | lines).all()
    assert (view[lines & ~canvas.footprint(8, 8)] == CELLS).all()
    assert view[28, 28, 0] < 80, "painted: teal"
    assert view[17, 17, 0] > 120, "a cell that the grown mask touches: amber"
    assert (view[:16][~lines[:16]] == 120).all()
