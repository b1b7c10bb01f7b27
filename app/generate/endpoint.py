"""The `/generate` endpoint: class and settings in, pictures as files out."""

from collections.abc import Callable, Iterator

import gradio as gr
from gradio.components import Component

from app.common.controls import to_request
from app.common.endpoints import draw, endpoint
from app.common.errors import plain_errors
from app.common.images import served
from app.engine.engine import Engine
from app.engine.settings import SAMPLING
from app.generate.step_history import publish_pictures


def make_endpoint(engine: Engine, at: Component) -> Callable[..., Iterator[list[gr.FileData]]]:
    """The function behind `/generate`; `at` serves the files."""

    @endpoint
    def generate(
        class_label: int | str | None = None,
        seed: int = 0,
        num_images: int = 1,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        guidance_kind: str | None = None,
        guidance_high: int | None = None,
        guidance_low: int | None = None,
        first_timestep: int | None = None,
        distilled: bool | None = None,
        skip_unconditional: bool = True,
        model: str | None = None,
    ) -> Iterator[list[gr.FileData]]:
        """Draw pictures of one class, by index or name (None: no class), or of a mix such as "cat:0.6,dog:0.4".

        Picture i has the seed `seed` + i.

        Steps, sampler and guidance are the model's own where they are not given.
        """
        given = {key: value for key, value in locals().items() if key in SAMPLING and value is not None}
        with plain_errors():
            name = engine.default if model is None else model
            info = engine.describe(name)
            label = engine.class_label(name, class_label)
            request = to_request(name, [label], num_images, seed, **info.sampling_defaults | given)
            request, images = yield from draw(engine, request)
            yield served(publish_pictures(request, images, info, at))

    return generate
