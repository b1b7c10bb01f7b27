"""Uploads of every shape become upright RGB, and what is no picture is refused in a sentence."""

import struct
import threading
import time
import zlib
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.common import images
from app.common.images import MAX_PIXELS, jpeg_uri, open_image, publish
from app.common.stage import columns_for
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.generate.step_history import PreviewChoice, StepHistory
from app.inpaint.source_image import SourceImage
from mdt_core.pipeline import image_arrays
from mdt_core.pipeline.image_arrays import mask_array, to_rgb

RAMP = np.linspace(0, 255, 16, dtype=np.uint8)[None].repeat(8, 0)  # (8, 16)


def opened(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    result = open_image(path)
    assert result.mode == "RGB"
    return np.asarray(result)


def test_all_modes_become_rgb(tmp_path: Path) -> None:
    """Catches 16 bits that clip to white, transparency that turns black, palettes shown as indices."""
    rgb = np.stack([RAMP] * 3, -1)
    grey = Image.fromarray(RAMP)
    assert (opened(tmp_path / "l.png", grey) == rgb).all()
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert (opened(tmp_path / "16.png", deep) == rgb).all()
    assert (opened(tmp_path / "f.tiff", Image.fromarray(RAMP.astype(np.float32) / 255)) == rgb).all()
    assert (opened(tmp_path / "p.png", grey.convert("P")) == rgb).all()
    assert np.abs(opened(tmp_path / "cmyk.tiff", grey.convert("RGB").convert("CMYK")).astype(int) - rgb).max() <= 2
    clear = Image.fromarray(np.dstack([rgb, np.zeros_like(RAMP)]))
    assert (opened(tmp_path / "clear.png", clear) == 255).all()
    half = opened(tmp_path / "half.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert (np.abs(half.astype(int) - 127) <= 1).all()
    assert (opened(tmp_path / "one.png", Image.new("1", (4, 4), 1)) == 255).all()


def test_a_picture_is_converted_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 8192 x 8192 with transparency took a gigabyte. Catches a conversion of the whole at once, and strips that
    are shifted or lost."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 4), np.uint8))
    pictures = [noise, *(noise.convert("RGB").convert(mode) for mode in ("1", "L", "P", "CMYK", "F"))]
    whole = [(np.asarray(to_rgb(image)), mask_array(image)) for image in pictures]
    composite, heights = Image.alpha_composite, []
    monkeypatch.setattr(Image, "alpha_composite", lambda *two: heights.append(two[0].height) or composite(*two))
    monkeypatch.setattr(image_arrays, "STRIP_PIXELS", 3 * 12)
    for image, (rgb, mask) in zip(pictures, whole, strict=True):
        assert (np.asarray(to_rgb(image)) == rgb).all() and (mask_array(image) == mask).all(), image.mode
    assert heights == [3, 3, 3, 1] * 2


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    """Catches an ignored EXIF orientation: phones store portraits lying down."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    assert opened(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif).shape == (16, 8, 3)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    """Catches a decoder's own exception that reaches the visitor."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(ValueError, match="This is not a PNG/JPEG"):
        open_image(tmp_path / "a.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-1500])
    with pytest.raises(ValueError, match="damaged or cut short"):
        open_image(tmp_path / "b.png")


@pytest.mark.parametrize("side", [8193, 30_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    """A few bytes that claim a huge picture: catches a check that comes after the memory is gone."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    with pytest.raises(ValueError, match=f"at most {MAX_PIXELS:,}"):
        open_image(tmp_path / "a.png")


def test_a_trajectory_keeps_both_views_on_disk_and_goes_with_its_owner() -> None:
    """Catches a step that is shown for another, unescaped class names, and files that stay behind."""
    request = Request("a", (0, None), (3, 4), num_inference_steps=4)
    info = ModelInfo("a", "MDTv2", 10, {0: "<b>cat</b>"}, 8, 4, 2, True, "cpu")
    history = StepHistory(request, info, PreviewChoice())
    for index in range(0, 4, 2):
        tiles = [Image.new("RGB", (8, 8), (index * 60, 0, 0))] * 2
        noisy = [Image.new("RGB", (8, 8), (0, 0, index * 60))] * 2
        history.add(Frame(0, index, 4, index, 4, 0.1, 1.0, index + 1, 0, stored=True, x_0=tiles, x_t=noisy))
    assert history.stored == [0, 2]
    assert jpeg_uri(Image.new("RGB", (8, 8), (120, 0, 0)), 64) in history.at(3)
    history.choice.key = "x_t"
    assert jpeg_uri(Image.new("RGB", (8, 8), (0, 0, 120)), 64) in history.at(2)
    assert "&lt;b&gt;cat" in history.at(0)
    assert "<b>cat" not in history.at(0)
    assert "seed 4 · no class" in history.at(0)
    folder = history._file(0, "x_0").parent
    assert folder.is_dir()
    del history
    assert not folder.exists()


def test_a_file_is_whole_while_it_is_published_again() -> None:
    """Stop ends a run twice, and both ends publish the grid. Catches a file that shrinks under a browser's hands."""
    at, data, sizes = gr.HTML(), bytes(4_000_000), []
    path = Path(publish(data, "grid", at))
    writer = threading.Thread(target=lambda: [publish(data, "grid", at) for _ in range(20)])
    writer.start()
    while writer.is_alive():
        sizes.append(path.stat().st_size)
    assert set(sizes) == {len(data)} and str(path) in at.temp_files
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_tiles_are_as_large_as_they_can_be() -> None:
    """Catches 16 pictures in one row."""
    assert [columns_for(n) for n in (1, 2, 4, 6, 9, 16)] == [1, 2, 2, 3, 3, 4]


def test_few_pictures_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures of 8192 x 8192 at once took the server to 4.9 GB. Catches one that does not wait for the others."""
    Image.new("I;16", (40, 30)).save(tmp_path / "a.png")
    decoded, now, most = images.decode, 0, 0

    def decode(header: Image.Image) -> Image.Image:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.05)
        now -= 1
        return decoded(header)

    monkeypatch.setattr(images, "decode", decode)
    monkeypatch.setattr("app.inpaint.source_image.decode", decode)
    calls = [open_image, SourceImage.open] * 4
    threads = [threading.Thread(target=call, args=(tmp_path / "a.png",)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == images.DECODED_AT_ONCE == 2


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others come in the limit is smaller. Catches one that is not the server's."""
    Image.new("1", (60, 50)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "decode", None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ValueError, match="The picture has 60 x 50 pixels: at most 2,000 can be opened"):
        open_image(tmp_path / "a.png")


def test_a_picture_that_had_to_make_room_is_told(tmp_path: Path) -> None:
    """Catches the path of a temporary file in a message."""
    source = SourceImage(Image.new("RGB", (40, 30)))
    source._file("image.bmp").unlink()
    with pytest.raises(ValueError, match="is no more kept here: open it again"):
        source.image()
