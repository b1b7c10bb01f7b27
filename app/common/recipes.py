"""Recipes: how a picture was made, kept inside its file, and read back.

A recipe is a flat JSON object. Reading is safe (a size limit, plain JSON, no pixel decoded, every value checked) and
tolerant (unknown fields are ignored, missing or useless ones are named and keep their defaults), so that pictures of
other versions still load.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from app.common.classes.mixing import mixed, split
from app.common.images import open_header
from app.common.stage import caption
from app.engine.model_info import ModelInfo
from app.engine.request import NOWHERE, AnyRequest, Label, Request, class_named, label_of
from app.engine.settings import SEED
from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.pipeline.labels import MAX_MIXED
from mdt_core.pipeline.recipe import FORMATS, class_entry, recipe_text

# What older recipes do not say, because it was always so.
OF_OLD = {
    **{"skip_unconditional": True, "guidance_kind": "class", "guidance_high": NUM_TIMESTEPS - 1, "guidance_low": 0},
    **{"first_timestep": NUM_TIMESTEPS - 1, "distilled": False},
}
PACKAGES = ("torch", "diffusers")  # their versions can change pixels


class Labelled(Protocol):
    """What knows classes: a model, or a run."""

    name: str
    labels: dict[int, str]


def of_image(request: Request, index: int, info: ModelInfo) -> dict[str, Any]:
    """The recipe of one image of a request, by itself: a batch changes a picture by rounding, on a GPU alone."""
    return {
        "kind": request.kind,
        **class_of(request.class_labels[index], info),
        "seed": request.seeds[index],
        **settings_of(request, info),
    }


def settings_of(request: Request, info: ModelInfo) -> dict[str, Any]:
    """What recipes of all kinds hold."""
    return {
        "model": request.model,
        "weights": info.weights,
        "dtype": info.dtype,
        **{key: getattr(request, key) for key in request.settings},
        "versions": {package: version(package) for package in PACKAGES},
    }


def class_of(label: Label, info: ModelInfo) -> dict[str, Any]:
    """What recipes say of the class of an image."""
    return class_entry(dict(label) if isinstance(label, tuple) else label, info.labels)


def read(path: str | Path, kind: str = Request.kind) -> dict[str, Any]:
    """The recipe in a saved picture. ValueError where there is none, or one of another kind."""
    image = open_header(path, FORMATS)
    try:
        text = recipe_text(image)
    except Exception as error:  # a damaged file
        raise ValueError("The picture is damaged: its recipe cannot be read.") from error
    if text is None:
        raise ValueError("This picture carries no recipe: only those saved by MDT Studio do.")
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("The recipe in this picture is damaged.") from error
    if not isinstance(recipe, dict):
        raise ValueError("The recipe in this picture is damaged.")
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


def to_request(recipe: Mapping[str, Any], info: ModelInfo, start: Request | None = None) -> tuple[Request, list[str]]:
    """The request for one image that a recipe describes, for the model `info`, and what could not be taken over.

    `start`: what it keeps where the recipe says nothing of use; by default the model's own settings.
    """
    notes = differences(recipe, info)
    request = with_settings(start or Request.first(info), OF_OLD | recipe, notes)
    if recipe.get("kind") == request.kind:
        request = replace(request, class_labels=(find_label(recipe, info, notes),))
    return request, notes


def find_class(recipe: Mapping[str, Any], info: ModelInfo, notes: list[str]) -> int | None:
    """As `find_label`, where there is no place for mixes; the first class of one stands for it."""
    label = find_label(recipe, info, notes)
    if not isinstance(label, tuple):
        return label
    notes.append(f"there is no place here for a mix of classes ({caption(label, info.labels)})")
    return label[0][0]


def find_label(recipe: Mapping[str, Any], info: ModelInfo, notes: list[str]) -> Label:
    """The class of a recipe in this model, or its mix of two. Notes what the model has not, and what cannot be used."""
    if "class_mix" not in recipe:
        labels = find_classes([recipe.get("class_label")], [recipe.get("class_name")], info, notes)
        return labels[0] if labels else None
    parts, mix = recipe["class_mix"], {}
    try:
        if not isinstance(parts, list) or len(parts) > MAX_MIXED:
            raise ValueError
        for part in parts:
            for label in find_classes([part["class_label"]], [part["class_name"]], info, notes):
                mix[label] = part["weight"]
        label = label_of(mix, info.labels)
    except (ValueError, TypeError, KeyError):
        notes.append("its mix of classes is not usable")
        return None
    if isinstance(label, tuple) and len(label) > 2:
        notes.append(f"of its mix ({caption(label, info.labels)}) the two classes that weigh most are taken")
        return mixed(*split(label))
    return label


def with_settings(request: AnyRequest, settings: Mapping[str, Any], notes: list[str]) -> AnyRequest:
    """The request with other settings, and one seed. Each that cannot be used stays as it was, and is noted."""
    for key, setting in {"seeds": SEED, **request.settings}.items():  # the sampler before the steps, which it bounds
        value = (settings.get("seed"),) if key == "seeds" else settings.get(key)
        try:
            request = replace(request, **{key: value})
        except (ValueError, TypeError):
            notes.append(f"its {setting.name} is missing or not usable")
    return request


def find_classes(labels: list, names: list, info: Labelled, notes: list[str]) -> tuple[int | None, ...]:
    """Classes of another model in this one: by index where the name agrees, else by name. Notes those it has not."""
    indices = []
    for label, name in zip(labels, names, strict=False):
        known = isinstance(name, str) or (name is None and label is None)
        number = label if isinstance(label, int) and not isinstance(label, bool) else None
        index = class_named(number, name, info.labels) if known else NOWHERE
        if index == NOWHERE:
            notes.append(f"{info.name} has no class {shorten(name)}")
        else:
            indices.append(index)
    return tuple(indices)


def shorten(value: Any) -> str:
    """A value from a stranger's file, fit to be shown."""
    return repr(value)[:60]
