"""Results as files that the browser can fetch and that the server deletes in time."""

import re
from urllib.parse import quote

from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache


def publish(data: bytes, name: str, component: Component, suffix: str = ".png") -> str:
    """Put a file where `component` serves its files from; the path. `name` becomes the name of a download."""
    stem = re.sub(r"[^\w-]+", "-", name).strip("-")[:80] or "picture"
    path = save_bytes_to_cache(data, f"{stem}{suffix}", component.GRADIO_CACHE)
    component.temp_files.add(path)  # so that launch(delete_cache=...) finds it
    return path


def uri(path: str) -> str:
    """Where the page, whatever its own address, finds a file that was published."""
    return f"gradio_api/file={quote(path)}"
