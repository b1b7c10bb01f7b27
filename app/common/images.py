"""Pictures in and out: opening what people upload, encoding what the page shows, and files that the browser fetches.

An upload is untrusted: its format, size and mode are checked before a pixel is decoded, and what comes out is always an
upright RGB picture.
"""

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from app.common.visitors import visitor
from app.engine.turns import Turns
from mdt_core.pipeline.image_arrays import to_rgb
from mdt_core.pipeline.recipe import save_picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 8192 * 8192
MAX_PATH = 4096  # characters
DECODED_AT_ONCE = 2  # pictures: one of MAX_PIXELS takes some hundred megabytes meanwhile

_decoding = Turns(DECODED_AT_ONCE, what="pictures")


def open_image(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An uploaded picture as RGB: turned upright (EXIF), flattened on white, 16 bits brought to 8, first frame only.

    ValueError where it is no picture of these formats, is cut short, or has more than `most_pixels`.
    """
    header = open_header(path, formats)
    with decoding():
        return decode(header)


def decode(header: Image.Image) -> Image.Image:
    """As `open_image` for what `open_header` gave, within `decoding`."""
    try:
        header.load()
        ImageOps.exif_transpose(header, in_place=True)
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError("The picture is damaged or cut short: save or upload it again.") from error
    return to_rgb(header)


@contextmanager
def decoding() -> Iterator[None]:
    """Within it pixels are decoded: of few pictures at once, for each takes memory. ValueError as of `Turns.join`."""
    with _decoding.join(visitor()) as turn:
        turn.wait()
        yield


def most_pixels() -> int:
    """Of a picture that is opened: MAX_PIXELS, or what PIL is told where that is less."""
    return min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)


def open_header(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture with its size, mode and texts known, and no pixel decoded yet. ValueError as for `open_image`."""
    try:
        image = Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise ValueError(f"The picture is too large: at most {most_pixels():,} pixels can be opened.") from error
    except Exception as error:
        raise ValueError(f"This is not a {'/'.join(formats)} picture that can be read.") from error
    width, height = image.size
    if width * height > most_pixels():
        raise ValueError(f"The picture has {width} x {height} pixels: at most {most_pixels():,} can be opened.")
    return image


def jpeg(image: Image.Image, max_side: int) -> bytes:
    """A picture for a passing look, at most `max_side` pixels high and wide."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def jpeg_uri(image: Image.Image, max_side: int) -> str:
    """The same as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(image, max_side)).decode()}"


def to_png(image: Image.Image, recipe: Mapping[str, Any] | None = None) -> bytes:
    """The picture as PNG bytes, with its recipe inside where there is one."""
    buffer = io.BytesIO()
    save_picture(image, buffer, recipe, "PNG")
    return buffer.getvalue()


def uploaded(file: Any) -> str:
    """The path of a file that a client sent. ValueError for anything else: clients must not name the server's files."""
    path = file.get("path") if isinstance(file, Mapping) else None
    if path is None or not was_uploaded(path):
        raise ValueError("Image and mask have to be sent as files: handle_file(path).")
    return path


def publish_picture(
    image: Image.Image, name: str, component: Component, recipe: Mapping[str, Any] | None = None
) -> str:
    """A picture as a PNG file that the browser can fetch, with its recipe inside where there is one; the path."""
    return publish(to_png(image, recipe), name, component)


def publish(data: bytes, name: str, component: Component, suffix: str = ".png") -> str:
    """Put a file where `component` serves its files from, until the server deletes it; the path.

    `name`, of any characters, becomes the name of a download.
    """
    stem = re.sub(r"\W+", "-", name).strip("-")[:80] or "picture"
    path = Path(component.GRADIO_CACHE) / hashlib.sha256(data).hexdigest() / f"{stem}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(data)
    os.replace(partial.name, path)  # in one piece: the same data may be published while a browser fetches it
    component.temp_files.add(str(path))  # so that launch(delete_cache=...) finds it
    return str(path)


def window(column: int, row: int, columns: int, rows: int) -> str:
    """The style that moves a picture of `columns` x `rows` windows to one of them."""
    x, y = 100 * column / max(columns - 1, 1), 100 * row / max(rows - 1, 1)
    return f"background-position: {x:.4g}% {y:.4g}%"


def was_uploaded(path: Any) -> bool:
    """Whether a file that a stranger names lies where uploads and results are kept."""
    # To resolve a path of a million folders would take hours.
    if not isinstance(path, str) or len(path) > MAX_PATH or "\0" in path:
        return False
    return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())


def uri(path: str) -> str:
    """Where the page, whatever its own address, finds a file that was published."""
    return f"gradio_api/file={quote(path)}"


def served(paths: Sequence[str]) -> list[gr.FileData]:
    """Published files as an API answers with them; Gradio puts the address of the app in front of `url`."""
    return [gr.FileData(path=path, url=f"/{uri(path)}") for path in paths]
