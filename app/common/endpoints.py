"""What the API's endpoints share: a run that ends when its client cancels it or goes away.

An endpoint is a generator that says "no pictures yet" while it waits and after every step: Gradio can end it there, and
nowhere else. A client is handed the last thing that it yields.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from time import perf_counter
from typing import TypeVar

import gradio as gr
from PIL import Image

from app.common.visitors import visitor
from app.engine.engine import Engine
from app.engine.frames import PREVIEW_SECONDS
from app.engine.request import AnyRequest
from app.engine.turns import LOOK_SECONDS

NOTHING_YET: list = []

Endpoint = TypeVar("Endpoint", bound=Callable[..., Iterator[list[gr.FileData]]])


def endpoint(function: Endpoint) -> Endpoint:
    """Mark an endpoint: Gradio reads what it answers off its annotation, and does not know generators."""
    function.__annotations__["return"] = list[gr.FileData]
    return function


def draw(
    engine: Engine, request: AnyRequest, complete: Callable[[AnyRequest], AnyRequest] | None = None
) -> Generator[list, None, tuple[AnyRequest, list[Image.Image]]]:
    """Wait for the engine, then run a request. What was run, and its pictures.

    Args:
        complete: adds what takes memory, when the turn has come.

    Raises:
        ValueError: the request is too long, too many of this visitor's wait already, or it cannot be run.
    """
    engine.check_time((request,))
    yield NOTHING_YET
    with engine.turns.join(visitor()) as turn:
        while not turn.wait(LOOK_SECONDS):
            yield NOTHING_YET
        request = complete(request) if complete else request
        images, latest = None, perf_counter()
        with closing(engine.run((request,))) as frames:
            for frame in frames:
                images = frame.images
                if perf_counter() - latest >= PREVIEW_SECONDS:
                    yield NOTHING_YET
                    latest = perf_counter()
    return request, images or []
