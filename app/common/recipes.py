"""Recipes: how a picture was made, kept in the text of its PNG, and read back.

A recipe is a flat JSON object. Reading is safe (a size limit, plain JSON, no pixel decoded, every value checked) and
tolerant (unknown fields are ignored, missing or useless ones are named and keep their defaults), so that pictures of
other versions still load.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from gradio.components import Component
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.common.images import open_header, publish
from app.engine.engine import ModelInfo
from app.engine.request import NOWHERE, Request, class_named

KEY = "mdt-studio"  # of the text chunk
PACKAGES = ("torch", "diffusers")  # their versions can change pixels
SETTINGS = ("sampler", "num_inference_steps", "guidance_scale", "guidance_power")  # the sampler bounds the steps
NAMES = {
    "seeds": "seed",
    "sampler": "sampler",
    "num_inference_steps": "number of steps",
    "guidance_scale": "guidance scale",
    "guidance_power": "guidance power",
    "skip_unconditional": "choice to skip passes",
}


class Labelled(Protocol):
    """What knows classes: a model, or a run."""

    name: str
    labels: dict[int, str]


def of_image(request: Request, index: int, info: ModelInfo) -> dict[str, Any]:
    """The recipe of one image of a request, by itself: a batch changes a picture by rounding, on a GPU alone."""
    label = request.class_labels[index]
    return {
        "kind": "generate",
        "class_label": label,
        "class_name": name_of(label, info),
        "seed": request.seeds[index],
        **settings_of(request, info),
        "skip_unconditional": request.skip_unconditional,
    }


def settings_of(request: Any, info: ModelInfo) -> dict[str, Any]:
    """What recipes of all kinds hold."""
    return {
        "model": request.model,
        "weights": info.weights,
        "dtype": info.dtype,
        **{name: getattr(request, name) for name in SETTINGS},
        "versions": {package: version(package) for package in PACKAGES},
    }


def name_of(label: int | None, info: ModelInfo) -> str | None:
    """A class's name; None for no class."""
    return None if label is None else info.labels[label]


def to_png(image: Image.Image, recipe: Mapping[str, Any] | None = None) -> bytes:
    """The picture as PNG bytes with its recipe inside, where there is one."""
    text = PngInfo()
    if recipe is not None:
        text.add_itxt(KEY, json.dumps(recipe, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def publish_picture(
    image: Image.Image, name: str, component: Component, recipe: Mapping[str, Any] | None = None
) -> str:
    """A picture as a PNG file, with its recipe inside where there is one; see `images.publish`. The path."""
    return publish(to_png(image, recipe), name, component)


def read(path: str | Path, kind: str = "generate") -> dict[str, Any]:
    """The recipe in a PNG. ValueError where there is none, or one of another kind."""
    image = open_header(path, formats=("PNG",))
    try:
        text = image.info.get(KEY) or image.text.get(KEY)  # the latter also finds text after the pixels
    except Exception as error:  # a damaged file
        raise ValueError("The PNG is damaged: its recipe cannot be read.") from error
    if text is None:
        raise ValueError("This PNG carries no recipe: only pictures saved by MDT Studio do.")
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("The recipe in this PNG is damaged.") from error
    if not isinstance(recipe, dict):
        raise ValueError("The recipe in this PNG is damaged.")
    if recipe.get("kind") != kind:
        raise ValueError(f"This is a recipe for another tab: {shorten(recipe.get('kind'))}, not {kind!r}.")
    return recipe


def differences(recipe: Mapping[str, Any], info: ModelInfo) -> list[str]:
    """What of the model and the machine is not as it was when the recipe was written."""
    notes = []
    if recipe.get("model") != info.name:
        notes.append(f"made with another model, {shorten(recipe.get('model'))}")
    elif recipe.get("weights", info.weights) != info.weights:
        notes.append(f"{info.name} has other weights now: another picture comes out")
    if recipe.get("dtype", "float32") != info.dtype:
        notes.append(f"made in {shorten(recipe.get('dtype'))}, not in {info.dtype}: pixels may differ a little")
    versions = recipe.get("versions")
    for package in PACKAGES if isinstance(versions, dict) else ():
        then, now = (str(text).partition("+")[0] for text in (versions.get(package), version(package)))
        if then != now:
            notes.append(f"made with {package} {shorten(then)}, not {now}: pixels may differ a little")
    return notes


def to_request(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[Request, list[str]]:
    """The request for one image that a recipe describes, for the model `info`, and what could not be taken over."""
    request, notes = Request(info.name, (None,), (0,)), differences(recipe, info)
    values = {"seeds": (recipe.get("seed"),)} | {name: recipe.get(name) for name in SETTINGS}
    values["skip_unconditional"] = recipe.get("skip_unconditional", True)  # older recipes: they all did
    for name, value in values.items():
        try:
            request = replace(request, **{name: value})
        except (ValueError, TypeError):
            notes.append(f"its {NAMES[name]} is missing or not usable")
    if recipe.get("kind") == "generate":
        labels = find_classes([recipe.get("class_label")], [recipe.get("class_name")], info, notes)
        request = replace(request, class_labels=labels or (None,))
    return request, notes


def find_classes(labels: list, names: list, info: Labelled, notes: list[str]) -> tuple[int | None, ...]:
    """Classes of another model in this one: by index where the name agrees, else by name. Notes those it has not."""
    found = []
    for label, name in zip(labels, names, strict=False):
        known = isinstance(name, str) or (name is None and label is None)
        number = label if isinstance(label, int) and not isinstance(label, bool) else None
        index = class_named(number, name, info.labels) if known else NOWHERE
        if index == NOWHERE:
            notes.append(f"{info.name} has no class {shorten(name)}")
        else:
            found.append(index)
    return tuple(found)


def shorten(value: Any) -> str:
    """A value from a stranger's file, fit to be shown."""
    return repr(value)[:60]
