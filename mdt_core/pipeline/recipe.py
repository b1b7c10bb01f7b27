"""A recipe: how a picture was made, as a JSON object inside its file.

A PNG holds it in a text, a JPEG and a WebP in the description of their EXIF data.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from mdt_core.pipeline.labels import ClassLabel, ClassMix, class_weights, label_text

KEY = "mdt-studio"  # of the PNG's text; a description begins with it
FORMATS = ("PNG", "JPEG", "WEBP")  # that hold a recipe


def save_picture(
    image: Image.Image,
    file: str | Path | IO[bytes],
    recipe: Mapping[str, Any] | None = None,
    format: str | None = None,
    **more: Any,
) -> None:
    """Write a picture in a quality that suits pictures, with its recipe where the format holds one.

    Args:
        image: PIL RGB.
        file: a path, whose suffix names the format, or a binary file with `format`.
        recipe: what JSON can hold.
        format: PIL's name of it, such as "PNG".
        **more: what PIL's `save` takes besides, such as the other frames of a film.

    Raises:
        OSError: it cannot be written.
    """
    format = format or Image.registered_extensions()[Path(str(file)).suffix.lower()]
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if format in ("JPEG", "WEBP") else {}
    if recipe is not None and format in FORMATS:
        options |= _png_text(recipe) if format == "PNG" else _exif(recipe)
    image.save(file, format, **options, **more)


def class_entry(label: ClassLabel | ClassMix, id2label: Mapping[int, str]) -> dict[str, Any]:
    """What a recipe says of an image's class; of a mix its parts, too, which older versions do not know.

    Raises:
        ValueError: there is no such class.
    """

    def entry(index: int) -> dict[str, Any]:
        return {"class_label": index if index in id2label else None, "class_name": id2label.get(index)}

    weights = class_weights(label, id2label)
    if len(weights) == 1:
        return entry(*weights)
    parts = [entry(index) | {"weight": weight} for index, weight in weights.items()]
    return {"class_label": None, "class_name": label_text(label, id2label), "class_mix": parts}


def recipe_text(image: Image.Image) -> str | None:
    """The JSON of an opened picture's recipe, unread; None where it has none.

    Raises:
        Exception: of any kind, where the file is damaged.
    """
    if image.format == "PNG":
        return image.info.get(KEY) or image.text.get(KEY)  # the latter also finds text after the pixels
    description = str(image.getexif().get(ExifTags.Base.ImageDescription, ""))
    return description.removeprefix(KEY) if description.startswith(KEY) else None


def _png_text(recipe: Mapping[str, Any]) -> dict[str, PngInfo]:
    text = PngInfo()
    text.add_itxt(KEY, json.dumps(recipe, ensure_ascii=False))
    return {"pnginfo": text}


def _exif(recipe: Mapping[str, Any]) -> dict[str, Image.Exif]:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = f"{KEY} {json.dumps(recipe)}"  # EXIF is ASCII, and so is this JSON
    return {"exif": exif}
