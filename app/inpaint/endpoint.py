"""The `/inpaint` endpoint: picture and mask as files, results as files."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import gradio as gr
from gradio.components import Component

from app.common.controls import to_request
from app.common.endpoints import draw, endpoint
from app.common.errors import plain_errors
from app.common.images import open_image, served, uploaded
from app.engine.engine import Engine
from app.inpaint.job import publish_variants
from app.inpaint.masks import open_mask
from app.inpaint.request import INPAINTING, InpaintRequest
from mdt_core.inpainting import DEFAULT_SCALE, find_method


def make_endpoint(engine: Engine, at: Component) -> Callable[..., Iterator[list[gr.FileData]]]:
    """The function behind `/inpaint`; `at` serves the files."""

    @endpoint
    def inpaint(
        image: gr.FileData,
        mask: gr.FileData,
        class_label: int | str | None = None,
        seed: int = 0,
        num_variants: int = 1,
        method: str = "mdt",
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        strength: float = 1.0,
        guidance_scale: float = DEFAULT_SCALE,
        guidance_power: float = InpaintRequest.guidance_power,
        guidance_kind: str = InpaintRequest.guidance_kind,
        guidance_high: int = InpaintRequest.guidance_high,
        guidance_low: int = InpaintRequest.guidance_low,
        first_timestep: int | None = None,
        masked_content: str = "auto",
        area: str = "whole",
        grow: int = 8,
        feather: int = 8,
        model: str | None = None,
    ) -> Iterator[list[gr.FileData]]:
        """Repaint a picture where the mask (of its size) is white. Variant i has the seed `seed` + i.

        The class goes by index or name; a mix of classes is written as "cat:0.6,dog:0.4".
        """
        with plain_errors():
            name = engine.default if model is None else model
            info = engine.describe(name)
            label = engine.class_label(name, class_label)
            settings = {key: value for key, value in locals().items() if key in INPAINTING}
            settings |= find_method(method).trajectory(**settings)
            request = to_request(name, [label], num_variants, seed, InpaintRequest, **settings)
            files = uploaded(image), uploaded(mask)

            def open_files(request: InpaintRequest) -> InpaintRequest:
                picture = open_image(files[0])
                return replace(request, image=picture, mask=open_mask(files[1], picture.size))

            request, images = yield from draw(engine, request, open_files)
            yield served(publish_variants(request, images, info, "inpainted", at))

    return inpaint
