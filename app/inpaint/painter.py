"""The mask painter and the comparison of before and after: components that scripts of their own draw in the page.

A picture is shown as a copy of at most DISPLAY_SIDE pixels (see `source_image`); the mask has the size of that copy.
In Python their files are paths, in the browser they are Gradio's FileData.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from time import time_ns
from typing import Any

import gradio as gr
import numpy as np

from app.common.errors import plain_errors
from app.common.images import publish_picture, uploaded
from app.inpaint.masks import open_mask, to_image
from app.inpaint.source_image import SourceImage

CANVAS = Path(__file__).with_name("canvas")

# For an event whose first input is the painter: wait until the server has the mask that is seen.
SETTLED = "async (painted, ...rest) => [window.mdtPainter ? await window.mdtPainter.settled() : painted, ...rest]"

Painted = dict[str, Any] | None  # a painter's value


@cache
def text_of(*names: str) -> str:
    """Of files of the canvas: Gradio makes a component anew at every update of a page, and keeps it."""
    return "\n".join((CANVAS / name).read_text("utf-8") for name in names)


class Canvas(gr.HTML):
    """A component that draws its `value`, a dict, by scripts of its own."""

    scripts: tuple[str, ...]
    styles: str
    files: tuple[str, ...]  # the keys of `value` that are files, or None

    def __init__(self, **options: Any):
        super().__init__(
            html_template="<div></div>",
            css_template=text_of(self.styles),
            js_on_load=text_of(*self.scripts),
            apply_default_css=False,
            **options,
        )

    def postprocess(self, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Paths -> files that the browser can fetch."""
        if not value:
            return None
        paths = {key: value[key] for key in self.files if value.get(key)}
        meta = {"_type": "gradio.FileData"}
        files = {key: {"path": path, "orig_name": Path(path).name, "meta": meta} for key, path in paths.items()}
        return {**value, **files}


class Painter(Canvas):
    """A canvas with tools. Events: `stroke` (the mask has changed), `touch` (it is about to), `overlay` (asked for)."""

    scripts = (
        "make.js",
        "mask.js",
        "view.js",
        "toolbar.js",
        "drawing.js",
        "exchange.js",
        "pointer.js",
        "keyboard.js",
        "paste.js",
        "painter.js",
    )
    styles = "painter.css"
    files = ("picture", "mask", "overlay")

    def preprocess(self, payload: Any) -> Painted:
        """The value as the browser sent it, its files as paths. gr.Error where one did not come through an upload."""
        if not isinstance(payload, Mapping) or not payload.get("picture"):
            return None
        with plain_errors():
            files = {key: uploaded(payload[key]) if payload.get(key) else None for key in self.files}
        return {**payload, **files}

    def show(self, source: SourceImage, mask: np.ndarray | None = None) -> dict[str, Any]:
        """The value that shows a picture, and a mask (H, W) bool of its own size."""
        shown = source.set_mask(mask)
        return {
            "picture": source.publish_display(self),
            "mask": publish_picture(to_image(shown), "mask", self) if shown.any() else None,
            "size": list(source.size),
            "source": source.path,  # with the name, what brings it back when the page is loaded again
            "name": source.name,
            "turn": time_ns() // 1000,  # a larger number for every picture or mask that a page is sent
        }


class BeforeAfter(Canvas):
    """Two pictures in one place, with a line between them to drag: {before, after, caption}."""

    scripts, styles, files = ("make.js", "before_after.js"), "before_after.css", ("before", "after")


def mask_of(painted: Painted, source: SourceImage) -> np.ndarray:
    """The mask that is seen, (H, W) bool of the picture's own size. ValueError where it is another picture's."""
    width, height = source.display_size
    seen = np.zeros((height, width), bool)
    if painted and painted["mask"]:
        seen = open_mask(painted["mask"], source.display_size)
    return source.mask(seen)
