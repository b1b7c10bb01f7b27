"""The button that turns a timeline into a file of the chosen format and hands it to the browser."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from app.common.errors import plain_errors
from app.common.images import publish, publish_picture
from app.common.studio import GLUE, PAGE
from app.progress.animation import NEEDS_AV, animate, formats
from app.progress.timeline import Timeline

NAMES = {"gif": "film (GIF)", "webp": "film (WebP)", "mp4": "film (MP4)", "png": "one picture (PNG)"}
BUSY = f"() => ({{__type__: 'update', value: {json.dumps('Making it …')}, interactive: false}})"
SAVE = """(file) => {
  if (file) Object.assign(document.createElement("a"), { href: file.url, download: file.orig_name }).click();
  return [];
}"""


class Download:
    """A choice of formats, and the button beside it. To be laid out in a row.

    Args:
        label: of the choice; it says what is saved.
        ready: the button's text.
    """

    def __init__(self, prefix: str, label: str, ready: str):
        self.ready = ready
        kinds = formats()
        if "mp4" not in kinds:
            gr.HTML(f'<p class="note">{NEEDS_AV}</p>', elem_classes="needs")
        self.format = gr.Dropdown(
            [(NAMES[kind], kind) for kind in kinds],
            value=kinds[0],
            label=label,
            info="A film goes from step to step; one picture shows all steps at once.",
            scale=0,
            min_width=170,
            elem_id=f"{prefix}-format",
            elem_classes="format",
        )
        self.button = gr.Button(ready, size="sm", scale=0, min_width=140, elem_id=f"{prefix}-download")
        # unseen by its class: visible="hidden" ends at the first value
        self.file = gr.DownloadButton(elem_classes="unseen", elem_id=f"{prefix}-file")

    def wire(self, make: Callable[..., str], inputs: list[gr.components.Component]) -> None:
        """What the button does: `make(format, *inputs)` returns a file where `self.file` serves it."""
        self.button.click(None, outputs=self.button, js=BUSY, **GLUE)
        made = self.button.click(make, [self.format, *inputs], self.file, concurrency_limit=2, **PAGE)
        made.success(None, self.file, js=SAVE, **GLUE)
        for ended in (made.then, made.failure):
            ended(lambda: gr.update(value=self.ready, interactive=True), None, self.button, **GLUE)

    def publish(self, timeline: Timeline, kind: str, name: str, recipe: Mapping[str, Any] | None = None) -> str:
        """A timeline as a file: an animation, or as "png" a grid, which carries its recipe where there is one."""
        with plain_errors():
            if kind == "png":
                return publish_picture(timeline.grid(), name, self.file, recipe)
            data = animate(list(timeline.frames()), kind)
        return publish(data, name, self.file, f".{kind}")
