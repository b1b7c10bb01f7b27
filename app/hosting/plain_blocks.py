"""Gradio's page, but whatever goes wrong at an event is one sentence to the visitor and one line in the log."""

import html
import logging
import os
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

import app.hosting.sessions  # noqa: F401 (what Gradio keeps of a visitor)
from app.common.errors import cut, where

# After every event Gradio sums up ten thousand of them for its monitor, which nobody sees here
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(2**31))
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")

TYPING = ("change", "input", "release")  # events of a field that may not be filled in yet

log = logging.getLogger("mdt-studio")


class PlainBlocks(gr.Blocks):
    """Gradio answers an error that it does not know by `{"error": null}`, and prints a traceback: anybody can fill the
    log with values that no page sends. Here a value that a component cannot take is told by that component's name."""

    async def process_api(self, *asked: Any, **more: Any) -> dict[str, Any]:
        """As of `gr.Blocks`. gr.Error, short and without a traceback, where it fails."""
        try:
            return await super().process_api(*asked, **more)
        except gr.Error as error:
            error.message, error.print_exception = cut(str(error.message)), False
            raise
        except Exception as error:
            log.warning("an event failed: %s", where(error))
            text = "This did not work with these values: check them, or load the page again."
            raise gr.Error(text, print_exception=False) from error

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> list:
        """The values that a handler is called with, from those that a browser or a client sent."""
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Exception as error:  # a stranger may send anything, and components raise whatever comes
            if isinstance(error, gr.Error) and not error.print_exception:
                raise  # told already
            now = [state[block._id] if state and block._id in state else block for block in block_fn.inputs]
            started = block_fn
            while started.trigger_after is not None:  # the event that this one follows
                started = self.fns[started.trigger_after]
            typing = all(event in TYPING for _, event in started.targets)  # told when a button is pressed, if it stays
            raise gr.Error(refusal(now, inputs), visible=not typing, print_exception=False) from error


def refusal(components: Sequence[Any], values: Sequence[Any]) -> str:
    """Which of the components cannot take its value, and what it takes, as HTML."""
    for component, value in zip(components, values, strict=False):
        if not isinstance(component, Component) or component.stateful or getattr(component, "data_model", None):
            continue
        try:
            component.preprocess(value)
        except Exception:
            label = getattr(component, "label", None) or "A value"
            return html.escape(
                f"{label}: {wanted(component)}" + (f", not {value!r:.60}." if value is not None else ".")
            )
    return "This cannot be used: reload the page and try again."


def wanted(component: Component) -> str:
    """What a component takes."""
    if hasattr(component, "minimum"):
        ends = {"from": component.minimum, "to": component.maximum}
        said = [f"{word} {end:g}" if end % 1 else f"{word} {int(end)}" for word, end in ends.items() if end is not None]
        return " ".join(["enter a number", *said])
    return "choose from the list" if hasattr(component, "choices") else "this cannot be used"
