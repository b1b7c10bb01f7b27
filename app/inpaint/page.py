"""The Inpaint tab's page: its components, and which of those that share one place is shown."""

from pathlib import Path

import gradio as gr

from app.common.controls import class_choices
from app.common.run_tab import RunTab
from app.common.stage import status_line
from app.common.studio import Studio, Update
from app.inpaint.controls import Controls, lay_out_mask_settings, lay_out_settings
from app.inpaint.easel import PAINT
from app.inpaint.examples import find_examples
from app.inpaint.request import MAX_VARIANTS
from app.inpaint.session import InpaintJob, Outcome

PAINTING, CELLS, RESULT = "paint", "cells", "result"
VIEWS = [("Paint", PAINTING), ("What will be repainted", CELLS), ("Result", RESULT)]
START = status_line(0, "Open a picture, paste one, or take an example.")
EMPTY = (
    '<div class="stage empty"><p>Drop or paste a picture here, open one, take an example,<br>'
    "or send one from Generate.</p></div>"
)
SCRIPT = Path(__file__).with_name("paste.js")


class Page(RunTab):
    """Lays the tab out, and adds "Send to Inpaint" to the Generate tab."""

    verb, kind = "Inpaint", "inpaint"
    ready = status_line(0, "Paint over what is to be repainted and press Inpaint (Ctrl + Enter).")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.examples = find_examples()
        with gr.Row(equal_height=False, elem_classes="tab"):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                settings = self._lay_out_controls(studio)
            with gr.Column(min_width=500, elem_classes="result", elem_id="inpaint-result"):
                self.controls = Controls(**settings, **self._lay_out_result())
        self.easel, self.outcome = gr.State(), gr.State()
        with studio.actions:
            self.send = gr.Button("Send to Inpaint", size="sm", scale=0, min_width=160, elem_id="generate-send")

    def _lay_out_controls(self, studio: Studio) -> dict[str, gr.components.Component]:
        with gr.Row():
            kinds = {"file_types": ["image"], "size": "sm", "min_width": 120}
            self.open = gr.UploadButton("Open picture", elem_id="inpaint-open", **kinds)
            self.open_mask = gr.UploadButton("Load mask", elem_id="inpaint-mask", **kinds)
        self.example = gr.Gallery(
            [str(picture) for picture, _ in self.examples],
            show_label=False,
            visible=bool(self.examples),
            columns=4,
            rows=1,
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="inpaint-examples",
            elem_classes="strip",
        )
        label = gr.Dropdown(
            class_choices(studio.info.labels),
            value=next(iter(studio.info.labels)),
            label="Class (type to filter)",
            elem_id="inpaint-class",
        )
        self.preset, settings = lay_out_settings(studio.info)
        self.lay_out_run()
        return {"label": label, **settings}

    def _lay_out_result(self) -> dict[str, gr.components.Component]:
        self.status = gr.HTML(START, elem_id="inpaint-status")
        self.editor = gr.ImageEditor(
            type="pil",
            format="png",
            layers=False,
            transforms=(),
            sources=(),
            interactive=True,
            fixed_canvas=False,
            show_label=False,
            buttons=[],
            brush=brush((64, 64)),
            visible="hidden",
            elem_id="inpaint-editor",
            elem_classes="editor",
        )
        self.stage = gr.HTML(EMPTY, elem_id="inpaint-stage", js_on_load=SCRIPT.read_text(encoding="utf-8"))
        self.cells = gr.HTML(visible=False, elem_id="inpaint-cells")
        self.slider = gr.ImageSlider(
            format="png",
            type="filepath",
            interactive=False,
            show_label=False,
            visible=False,
            buttons=["fullscreen"],
            elem_id="inpaint-slider",
            elem_classes="compare",
        )
        self.variants = gr.Gallery(
            format="png",
            show_label=False,
            visible=False,
            interactive=False,
            allow_preview=False,
            columns=MAX_VARIANTS,
            rows=1,
            buttons=[],
            elem_id="inpaint-variants",
            elem_classes="strip",
        )
        with gr.Row(elem_classes="scrub", equal_height=True):
            self.view = gr.Radio(
                VIEWS, value=PAINTING, show_label=False, container=False, min_width=380, elem_id="inpaint-view"
            )
            small = {"size": "sm", "scale": 0}
            self.invert = gr.Button("Invert mask", min_width=110, elem_id="inpaint-invert", **small)
            self.clear = gr.Button("Clear mask", min_width=110, elem_id="inpaint-clear", **small)
            self.use = gr.Button("Use this one", visible=False, min_width=120, elem_id="inpaint-use", **small)
            self.save = gr.DownloadButton("Save PNG", visible=False, min_width=160, elem_id="inpaint-save", **small)
        with gr.Row():
            return lay_out_mask_settings()

    def show(self, view: str, job: InpaintJob | None = None, outcome: Outcome | None = None) -> Update:
        """Which of the components that share one place is there."""
        running = bool(job and job.running)
        result = view == RESULT and bool(outcome) and not running
        return {
            self.view: view,
            self.editor: gr.update(visible=True if view == PAINTING else "hidden"),
            self.cells: gr.update(visible=view == CELLS),
            self.stage: gr.update(visible=view == RESULT and not result),
            self.slider: gr.update(visible=result),
            self.variants: gr.update(visible=result and len(outcome.files) > 1),
            self.invert: gr.update(visible=view == PAINTING),
            self.clear: gr.update(visible=view == PAINTING),
            self.use: gr.update(visible=result),
            self.save: gr.update(visible=result),
        }


def brush(size: tuple[int, int]) -> gr.Brush:
    """A brush that suits a picture of this size: it reaches a twelfth of the shorter side."""
    return gr.Brush(default_size=max(2, min(size) // 12), colors=[(f"rgb{PAINT}", 0.6)], color_mode="fixed")
