"""An inpainting request: settings, a picture, a mask; its frames, with previews that suit a browser; its recipe.

The engine runs it as it runs a `Request`. The result has the picture's own size; previews are pasted into a copy
scaled down, so that a photo of 8192 pixels costs no more to look at than a small one.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.common import recipes
from app.common.images import MAX_PIXELS
from app.common.stage import STAGE_SIDE, columns_for
from app.engine.engine import ModelInfo
from app.engine.frames import Frame, frames_of
from app.engine.request import (
    GUIDANCE_POWER,
    GUIDANCE_SCALE,
    MAX_SEED,
    SKIP_TOLERANCE,
    check_number,
    check_whole,
    max_steps,
)
from app.inpaint.easel import mask_png, read_mask, small_canvas
from mdt_core.fingerprint import fingerprint
from mdt_core.inpainting import DEFAULT_SCALE, MASKED_CONTENTS, METHODS, choose_content
from mdt_core.pipeline.canvas import AREAS, MAX_GROW, fit_box
from mdt_core.samplers import SAMPLERS

MAX_VARIANTS = 8
MAX_TOTAL = 2 * MAX_PIXELS  # of all variants together: what a machine of 16 GB can hold
PRESETS = {"Fast": 0.25, "Balanced": 0.5, "Best": 1.0}  # share of the method's steps
DEFAULT, FALLBACK = "mdt", "repaint"  # the latter for a model without side-interpolator
CHOICES = {"method": METHODS, "sampler": SAMPLERS, "area": AREAS, "masked_content": MASKED_CONTENTS}
NAMES = {
    "seeds": "seed",
    "num_inference_steps": "number of steps",
    **{
        name: name.replace("_", " ")
        for name in (*CHOICES, "guidance_scale", "guidance_power", "strength", "grow", "feather")
    },
}

LEAST_STRENGTH = 0.01
MAX_MASK = 2**18  # bytes of PNG in a recipe: PIL reads texts of a megabyte at most


@dataclass(frozen=True)
class Settings:
    """How to repaint. Raises ValueError where a value is out of range."""

    model: str  # a name in Engine.models
    class_label: int | None = None  # None: no class, unconditional
    seeds: tuple[int, ...] = (0,)  # one per variant
    method: str = DEFAULT
    sampler: str = "ddpm"
    num_inference_steps: int = METHODS[DEFAULT].num_inference_steps  # of the trajectory; repeats come on top
    guidance_scale: float = DEFAULT_SCALE
    guidance_power: float = 4.0
    strength: float = 1.0
    masked_content: str = "auto"
    area: str = "whole"
    grow: int = 8  # picture pixels
    feather: int = 8

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_VARIANTS:
            raise ValueError(f"The number of variants must be 1 to {MAX_VARIANTS}, not {len(self.seeds)}.")
        for seed in self.seeds:
            check_whole("seed", seed, 0, MAX_SEED)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"There is no {NAMES[name]} {value!r}: choose one of {', '.join(choices)}.")
        check_whole(f"number of steps for {self.sampler}", self.num_inference_steps, 1, max_steps(self.sampler))
        check_number("guidance scale", self.guidance_scale, *GUIDANCE_SCALE)
        check_number("guidance power", self.guidance_power, *GUIDANCE_POWER)
        check_number("strength", self.strength, LEAST_STRENGTH, 1)
        choose_content(self.masked_content, self.strength)
        check_whole("grow", self.grow, 0, MAX_GROW)
        check_whole("feather", self.feather, 0, MAX_GROW)


@dataclass(frozen=True)
class Inpainting:
    """Settings with a picture (RGB) and a mask (H, W) of its size: what the engine runs. Raises ValueError."""

    settings: Settings
    picture: Image.Image
    mask: np.ndarray

    def __post_init__(self) -> None:
        width, height = self.picture.size
        most = MAX_TOTAL // (width * height)
        if len(self.settings.seeds) > most:
            raise ValueError(
                f"{len(self.settings.seeds)} variants of {width} x {height} pixels are too many: at most {most}."
            )

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def gpu_seconds(self) -> float:
        """An upper bound on a data-centre GPU, for ZeroGPU."""
        steps = self.settings.num_inference_steps * METHODS[self.settings.method].repeats
        pixels = len(self.settings.seeds) * self.picture.size[0] * self.picture.size[1]
        return steps * (0.04 + 0.005 * len(self.settings.seeds)) + pixels / 1e7

    def check(self, info: ModelInfo) -> None:
        """ValueError where the mask does not suit the picture or the model; cheap, and done before the queue."""
        cell = info.image_size // info.cells
        fit_box(self.mask, info.image_size, cell=cell, area=self.settings.area, grow=self.settings.grow)

    def small_canvas(self, image_size: int, cells: int, side: int):
        """The canvas scaled down to `side` pixels, to look at."""
        return small_canvas(
            self.picture,
            self.mask,
            side,
            image_size,
            area=self.settings.area,
            grow=self.settings.grow,
            feather=self.settings.feather,
            cell=image_size // cells,
        )

    def frames(self, pipe: Any, request_index: int = 0) -> Iterator[Frame]:
        """The run, step by step."""
        side = STAGE_SIDE // columns_for(len(self.settings.seeds))
        canvas = self.small_canvas(pipe.image_size, pipe.latent_shape[-1], side)

        def draw(step: Any) -> dict[str, list[Image.Image]]:
            squares = pipe.preview_images(step.x_0)
            return {"x_0": [Image.fromarray(canvas.paste(to_tensor(square))) for square in squares]}

        settings = self.settings
        steps = pipe.stream_inpaint(
            self.picture,
            self.mask,
            class_labels=settings.class_label,
            method=settings.method,
            num_inference_steps=settings.num_inference_steps,
            strength=settings.strength,
            seeds=list(settings.seeds),
            sampler=settings.sampler,
            guidance_scale=settings.guidance_scale,
            guidance_power=settings.guidance_power,
            skip_tolerance=SKIP_TOLERANCE,
            area=settings.area,
            masked_content=settings.masked_content,
            grow=settings.grow,
            feather=settings.feather,
        )
        return frames_of(steps, draw, request_index)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A PIL picture -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)


# --- recipes -----------------------------------------------------------------------------------------------


def recipe_of(request: Inpainting, index: int, info: ModelInfo) -> dict[str, Any]:
    """The recipe of one variant; without its mask, where that takes more than MAX_MASK bytes."""
    settings, mask = request.settings, mask_png(request.mask)
    return {
        "kind": "inpaint",
        "class_label": settings.class_label,
        "class_name": recipes.name_of(settings.class_label, info),
        "seed": settings.seeds[index],
        **recipes.settings_of(settings, info),
        **{name: getattr(settings, name) for name in ("method", "strength", "masked_content", "area")},
        **{name: getattr(settings, name) for name in ("grow", "feather")},
        "source": source_of(request.picture),
        "mask": base64.b64encode(mask).decode() if len(mask) <= MAX_MASK else None,
    }


def settings_from(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[Settings, list[str]]:
    """The settings for one variant that a recipe describes, for the model `info`, and what could not be taken over."""
    settings, notes = Settings(info.name), recipes.differences(recipe, info)
    values = {name: recipe.get(name) for name in NAMES} | {"seeds": (recipe.get("seed"),)}
    for name in ("sampler", *(name for name in NAMES if name != "sampler")):  # the sampler bounds the steps
        try:
            settings = replace(settings, **{name: values[name]})
        except (ValueError, TypeError):
            notes.append(f"its {NAMES[name]} is missing or not usable")
    if METHODS[settings.method].masked_pass and not info.masked_pass:
        settings = replace(settings, method=FALLBACK)
        notes.append(f"{info.name} has no side-interpolator: {FALLBACK} takes its place")
    labels = recipes.find_classes([recipe.get("class_label")], [recipe.get("class_name")], info, notes)
    return replace(settings, class_label=labels[0] if labels else None), notes


def source_of(picture: Image.Image) -> str:
    """Tells a picture from others, by its pixels."""
    return fingerprint(picture.tobytes())


def mask_from(recipe: Mapping[str, Any]) -> np.ndarray | None:
    """The mask in a recipe; None where there is none that can be read."""
    try:
        return read_mask(base64.b64decode(recipe["mask"]))
    except Exception:  # missing, no text, no picture, damaged: it is a stranger's file
        return None
