"""The Compare tab: classes down, one setting across, all at one seed, drawn cell by cell on one labelled grid."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import gradio as gr

from app.common.class_picker import bind_to_model, check_classes, class_picker, to_label
from app.common.comparison import AXES, Comparison, from_recipe, to_recipe
from app.common.controls import RequestControls, bring_steps, seed_picker, setting_controls
from app.common.images import jpeg_uri, publish_picture, uri
from app.common.run_tab import Job, RunTab
from app.common.stage import duration, image, message, status_line
from app.common.studio import GLUE, Studio, Update
from app.compare.grid import empty_grid, join_values, parse_values
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from mdt_core.pipeline.labelled_grid import LabelledGrid

MAX_ROWS = 16
OFFERED_MODELS = 6
SIDE = 1600  # pixels of the largest grid that is streamed


class GridJob(Job):
    """A comparison and its picture; what is done is counted in cells."""

    def __init__(self, comparison: Comparison):
        super().__init__(comparison.requests())
        self.comparison, self.cells, self.total = comparison, comparison.cells(), len(self.requests)
        self.grid: LabelledGrid | None = None

    def start(self, info: ModelInfo) -> None:
        """Its turn has come. `info`: of the weights that draw it."""
        self.info, self.start_time = info, perf_counter()
        self.requests = self.comparison.requests(info.labels)
        self.grid = empty_grid(self.comparison, info.labels, info.image_size)

    def add(self, step: Frame) -> bool:
        """Put a frame's picture into its cell, where it has one."""
        self.done = step.request_index + bool(step.images)
        self.seconds = perf_counter() - self.start_time
        for picture in (step.images or step.x_0 or [])[:1]:
            self.grid.paste(picture, *self.cells[step.request_index])
        return bool(step.images or step.x_0)


class Compare(RunTab):
    """The tab's components, and what happens between them."""

    verb, makes, kind = "Compare", "grid", "compare"
    ready = status_line(0, "Pick classes and what varies, and press Compare (Ctrl + Enter).")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.lay_out_columns()
        self.picker_model = bind_to_model(studio, self.controls.classes)
        settings = [self.axis, self.values, *self.controls.inputs]
        self.axis.input(self.offer_values, self.axis, self.values, **GLUE)
        self.wire_run([self.picker_model, studio.model, *settings], [self.stage, self.save])
        self.wire_recipe([self.picker_model, *settings])

    def lay_out_controls(self) -> None:
        labels = list(self.studio.info.labels)
        classes = class_picker(self.studio.info, labels[:3], MAX_ROWS, "compare")
        with gr.Row():
            self.axis = gr.Dropdown(
                [(axis.name, key) for key, axis in AXES.items()],
                value="guidance_scale",
                label="What varies",
                min_width=120,
                elem_id="compare-axis",
            )
            default = AXES["guidance_scale"].default
            self.values = gr.Textbox(default, label="Values", max_lines=1, min_width=120, elem_id="compare-values")
        start, seed = Request.first(self.studio.info), seed_picker("compare")
        settings = setting_controls(start, "compare", "sampler", "num_inference_steps")
        settings |= setting_controls(start, "compare", "guidance_scale", "guidance_power")
        settings |= setting_controls(start, "compare", "skip_unconditional")
        self.controls = RequestControls(Request, classes, None, seed, settings)
        bring_steps(settings)
        self.lay_out_run()
        self.lay_out_recipe()

    def lay_out_result(self) -> None:
        self.lay_out_status()
        self.stage = gr.HTML(message("The grid comes here, cell by cell."), elem_id="compare-stage")
        self.save = gr.DownloadButton("Save as PNG", size="sm", visible=False, elem_id="compare-save")

    def offer_values(self, axis: str) -> str:
        """Values to begin with: of models, those there are now, oldest checkpoint first."""
        models = list(self.engine.models)[:OFFERED_MODELS]
        return join_values(reversed(models)) if axis == "model" else AXES[axis].default

    # --- a run -----------------------------------------------------------------------------------------------

    def make_job(
        self, picker_model: ModelInfo, model: str, axis: str, values: str, classes: list[int], *settings: Any
    ) -> GridJob:
        """The grid of these settings."""
        check_classes(picker_model, self.engine.describe(model))
        base = self.controls.request(model, [], *settings)
        job = GridJob(Comparison(base, tuple(map(to_label, classes)), axis, parse_values(axis, values)))
        for name in dict.fromkeys(request.model for request in job.requests):
            self.engine.locate(name)  # looks through the runs: once per model, not per cell
        self.engine.check_time(job.requests)
        return job

    def queued(self, job: GridJob) -> Update:
        """The grid of before can no more be saved."""
        return {self.save: gr.update(visible=False)}

    def started(self, job: GridJob) -> Update:
        """The grid without its pictures."""
        job.start(self.engine.describe(job.comparison.base.model))
        return {self.stage: show(jpeg_uri(job.grid.image, SIDE))}

    def preview(self, job: GridJob, step: Frame) -> Update:
        """The grid so far, and how long it will take if the cells to come cost what these did."""
        done = step.request_index + (step.index + 1) / step.total
        left = duration(job.seconds * (job.total - done) / done)
        cell = f"Cell <b>{step.request_index + 1}</b> of {job.total}, step {step.index + 1} of {step.total}"
        return {
            self.stage: show(jpeg_uri(job.grid.image, SIDE)),
            self.status: status_line(done / job.total, f"{cell} · {left} left"),
        }

    def result(self, job: GridJob, step: Frame | None) -> Update:
        """The grid as it is, to be looked at and saved with the recipe of the whole."""
        comparison = job.comparison
        name = f"compare-{comparison.axis}-seed-{comparison.base.seeds[0]}"
        file = publish_picture(job.grid.image, name, self.save, to_recipe(comparison, job.info))
        return {self.stage: show(uri(file)), self.save: gr.update(value=file, visible=True)}

    def ended(self, job: GridJob) -> Update:
        """A grid that was stopped can be saved, too."""
        if job.grid is None:  # it was stopped before its turn
            return {}
        if job.done == job.total:
            return {self.status: status_line(1, f"{job.total} cells in {duration(job.seconds)}")}
        text = f"Stopped after {job.done} of {job.total} cells."
        return {self.status: status_line(job.done / job.total, text)} | (self.result(job, None) if job.done else {})

    def apply_recipe(self, recipe: Mapping[str, Any], info: ModelInfo, path: str) -> tuple[Request, Update, list[str]]:
        """All controls as a saved grid says."""
        comparison, notes = from_recipe(recipe, info)
        update = {self.picker_model: info, self.axis: comparison.axis, self.values: join_values(comparison.values)}
        return comparison.base, update | self.controls.updates(comparison.base, info, comparison.class_labels), notes


def show(source: str) -> str:
    """The grid on the stage, as HTML."""
    return f'<div class="stage sheet">{image(source, "Grid of classes and values")}</div>'
