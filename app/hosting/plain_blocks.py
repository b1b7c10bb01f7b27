"""Gradio's page, but whatever goes wrong at an event is one sentence to the visitor and one line in the log."""

import logging
import os
from typing import Any

import gradio as gr

import app.hosting.sessions  # noqa: F401 (what Gradio keeps of a visitor)
from app.common.errors import CheckedBlocks, cut, where

# After every event Gradio sums up ten thousand of them for its monitor, which nobody sees here
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(2**31))
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")

log = logging.getLogger("mdt-studio")


class PlainBlocks(CheckedBlocks):
    """Gradio answers an error that it does not know by `{"error": null}`, and prints a traceback: anybody can fill the
    log with values that no page sends."""

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
