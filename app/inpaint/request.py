"""A request for inpainting: what it adds to a request, its frames with previews that suit a browser, its recipe.

The result has the picture's own size; previews are pasted into a copy scaled down, so that a photo of 8192 pixels costs
no more to look at than a small one.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from app.common import recipes
from app.common.images import MAX_PIXELS
from app.common.presets import Presets
from app.common.stage import STAGE_SIDE, columns_for
from app.engine.frames import Frame, frames_of
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.settings import SAMPLING, Choice, Number, Setting
from app.inpaint.masks import mask_png, read_mask, reduce
from app.inpaint.source_image import fit_within
from mdt_core.fingerprint import fingerprint
from mdt_core.inpainting import DEFAULT_SCALE, METHODS, choose_content, resampling_order
from mdt_core.pipeline.canvas import MAX_GROW, Box, Canvas, fit_box, prepare

METHOD, FALLBACK = "mdt", "repaint"  # the latter for a model without side-interpolator
PRESET_STEPS = {  # the last: the method's own
    METHOD: {"Fast": 6, "Balanced": 13, "Best": METHODS[METHOD].num_inference_steps},
    FALLBACK: {"Fast": 14, "Balanced": 25, "Best": METHODS[FALLBACK].num_inference_steps},
}
FIRST_PRESET = "Balanced"
MAX_TOTAL = 2 * MAX_PIXELS  # of all variants together: what a machine of 16 GB can hold
MAX_MASK = 2**18  # bytes of PNG in a recipe: PIL reads texts of a megabyte at most

NUM_VARIANTS = Number(
    "number of variants", "Variants", "count", "How many results to choose from; their seeds count up.", 1, 8
)
INPAINTING: Mapping[str, Setting] = {
    "method": Choice(
        "method",
        "Method",
        "method",
        "How the new part comes to fit the rest: MDT looks at it, RePaint goes over it again, Blend just joins it.",
        {"blend": "Blend", "repaint": "RePaint", "mdt": "MDT"},
    ),
    **SAMPLING,
    "strength": Number(
        "strength", "Strength", "strength", "1: the part is made anew; less keeps some of what is there.", 0.01, 1, 0.01
    ),
    "masked_content": Choice(
        "masked content",
        "Fill the hole with",
        "content",
        "What the model begins with there; automatic: surroundings at strength 1, else what is there.",
        {
            "auto": "Automatic",
            "fill": "Blurred surroundings",
            "original": "What is there",
            "noise": "Noise",
        },
    ),
    "area": Choice(
        "area",
        "Repaint",
        "area",
        "How much the model sees: around the mask only, a small part of a large picture gets all of its pixels.",
        {
            "whole": "With the whole picture in view",
            "crop": "With the largest square in view",
            "masked": "Around the mask only",
        },
    ),
    "grow": Number(
        "grow", "Widen the mask", "grow", "By so many pixels, so that no edge of the old part is left.", 0, MAX_GROW
    ),
    "feather": Number(
        "feather", "Soften its edge", "feather", "Over so many pixels the new part fades into the old one.", 0, MAX_GROW
    ),
}


@dataclass(frozen=True)
class InpaintRequest(Request):
    """How to repaint, one image a variant, and what: a picture and a mask, without which it cannot be run."""

    guidance_scale: float = DEFAULT_SCALE
    num_inference_steps: int = METHODS[METHOD].num_inference_steps  # of the trajectory; repeats come on top
    sampler: str = METHODS[METHOD].sampler
    first_timestep: int = METHODS[METHOD].first_timestep
    method: str = METHOD
    strength: float = 1.0
    masked_content: str = "auto"
    area: str = "whole"
    grow: int = 8  # picture pixels
    feather: int = 8
    image: Image.Image | None = field(default=None, repr=False, compare=False)  # RGB
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)  # (H, W) bool, of the picture's size

    kind: ClassVar[str] = "inpaint"
    settings: ClassVar[Mapping[str, Setting]] = INPAINTING
    count: ClassVar[Number] = NUM_VARIANTS

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_content(self.masked_content, self.strength)
        if self.image is None:
            return
        width, height = self.image.size
        most = MAX_TOTAL // (width * height)
        if len(self.seeds) > most:
            raise ValueError(f"{len(self.seeds)} variants of {width} x {height} pixels are too many: at most {most}.")

    @classmethod
    def first(cls, info: ModelInfo) -> Self:
        """As for any request, but nothing of the model's own settings: they suit whole pictures."""
        return cls(info.name, (None,), (0,), **presets_for(info)[FIRST_PRESET])

    @property
    def gpu_seconds(self) -> float:
        width, height = self.image.size
        return super().gpu_seconds + len(self.seeds) * width * height / 1e7

    @property
    def evaluations(self) -> list[int]:
        per_step, positions = super().evaluations, self.positions
        more = METHODS[self.method].predicted  # after every step but the last
        return [per_step[i] + more for i in positions[:-1]] + [per_step[positions[-1]]]

    @property
    def positions(self) -> list[int]:
        """Of every step on the trajectory, in the order of the run: a lower strength begins later, methods repeat."""
        total = self.num_inference_steps
        return resampling_order(total - max(1, round(self.strength * total)), total, METHODS[self.method])

    def box(self, image_size: int, cells: int) -> Box:
        """The model's square on the picture. ValueError where the mask does not suit the picture or the model."""
        return fit_box(self.mask, image_size, cell=image_size // cells, area=self.area, grow=self.grow)

    def small_canvas(self, image_size: int, cells: int, side: int) -> Canvas:
        """The canvas of the picture scaled down to `side` pixels, to look at. ValueError as of `box`."""
        small_size = fit_within(self.image.size, side)
        scale = max(small_size) / max(self.image.size)
        small = self.image.resize(small_size, Image.Resampling.LANCZOS, reducing_gap=2) if scale < 1 else self.image
        edges = {"grow": round(self.grow * scale), "feather": round(self.feather * scale)}
        box = self.box(image_size, cells).scaled(scale)
        return prepare(np.asarray(small), reduce(self.mask, small_size), image_size, box, **edges)

    def frames(self, pipe: Any, request_index: int = 0) -> Iterator[Frame]:
        side = STAGE_SIDE // columns_for(len(self.seeds))
        canvas = self.small_canvas(pipe.image_size, pipe.latent_shape[-1], side)

        def draw(step: Any) -> dict[str, list[Image.Image]]:
            squares = pipe.preview_images(step.x_0)
            return {"x_0": [Image.fromarray(canvas.paste(square)) for square in squares]}

        own = {key: getattr(self, key) for key in INPAINTING if key not in SAMPLING}
        steps = pipe.stream_inpaint(self.image, self.mask, **self.pipeline_arguments, **own)
        places = {"positions": self.positions, "num_steps": self.num_inference_steps}
        return frames_of(steps, draw, request_index, self.evaluations, **places)


def presets_for(info: ModelInfo) -> Presets:
    """The presets of a model: without a side-interpolator it falls back to resampling."""
    method = METHOD if info.masked_pass else FALLBACK
    return {
        name: {"method": method, **METHODS[method].trajectory(num_inference_steps=steps)}
        for name, steps in PRESET_STEPS[method].items()
    }


# --- recipes -----------------------------------------------------------------------------------------------


def recipe_of(request: InpaintRequest, index: int, info: ModelInfo) -> dict[str, Any]:
    """The recipe of one variant; without its mask, where that takes more than MAX_MASK bytes."""
    source, mask = source_of(request.image), mask_png(request.mask)
    own = {"source": source, "mask": base64.b64encode(mask).decode() if len(mask) <= MAX_MASK else None}
    return recipes.of_image(request, index, info) | own


def from_recipe(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[InpaintRequest, list[str]]:
    """The request for one variant that a recipe describes, for the model `info`, and what could not be taken over."""
    request, notes = recipes.to_request(recipe, info, InpaintRequest(info.name, (None,), (0,)))
    assert isinstance(request, InpaintRequest)  # as the one that it starts from
    return suited(request, info, notes), notes


def suited(request: InpaintRequest, info: ModelInfo, notes: list[str]) -> InpaintRequest:
    """The request with a method that the model can do; notes where that is another one."""
    if METHODS[request.method].masked_pass and not info.masked_pass:
        request = replace(request, method=FALLBACK)
        notes.append(f"{info.name} has no side-interpolator: {FALLBACK} takes its place")
    return request


def source_of(image: Image.Image) -> str:
    """Tells a picture from others, by its pixels."""
    return fingerprint(image.tobytes())


def mask_from(recipe: Mapping[str, Any]) -> np.ndarray | None:
    """The mask in a recipe; None where there is none that can be read."""
    try:
        return read_mask(base64.b64decode(recipe["mask"]))
    except Exception:  # missing, no text, no picture, damaged: it is a stranger's file
        return None
