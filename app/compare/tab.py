"""The Compare tab: one setting across, another one down, all else the same, drawn on one labelled grid."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import gradio as gr
from gradio.components import Component

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.classes.picker import bind_to_model, check_classes
from app.common.comparison import Comparison, Side, from_recipe, names_of, to_recipe
from app.common.controls import RequestControls, seed_picker
from app.common.errors import plain_errors
from app.common.images import jpeg_uri, publish_picture
from app.common.run_tab import Job
from app.common.settings_tab import SettingsTab
from app.common.stage import duration, message, status_line
from app.common.studio import CHECK, GLUE, Studio, Update
from app.compare.grid import empty_grid, sheet
from app.compare.sides import SideControls, default_values, read_side, side_controls
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Request

FEW_STEPS = 10  # to begin with: enough to see a difference, and drawn in seconds
SIDE = 256  # pixels of a cell on the page
OPEN = """element.addEventListener("click", ({ target }) => {
  const cell = target.closest("[data-row]");
  if (cell) trigger("select", { row: Number(cell.dataset.row), column: Number(cell.dataset.column) });
});"""


class GridJob(Job):
    """A comparison and its picture; what is done is counted in cells."""

    def __init__(self, comparison: Comparison):
        batches = comparison.batches()
        super().__init__([request for request, _ in batches])
        self.comparison, self.cells = comparison, [cells for _, cells in batches]
        self.sources = [[None] * len(comparison.columns.values) for _ in comparison.rows.values]  # of the page
        self.total = sum(map(len, self.cells))
        self.info = None  # of the weights that draw it, once its turn has come
        self.grid = None  # the sheet, until it lies in the file
        self.file = ""

    def start(self, info: ModelInfo) -> None:
        """Its turn has come."""
        self.info, self.start_time = info, perf_counter()
        self.requests = [request for request, _ in self.comparison.batches(info.labels)]
        self.grid = empty_grid(self.comparison, info.labels, info.image_size)

    def add(self, step: Frame) -> bool:
        """Put a frame's pictures into their cells, where it has some."""
        cells = self.cells[step.request_index]
        self.done = sum(map(len, self.cells[: step.request_index])) + len(cells) * bool(step.images)
        self.seconds = perf_counter() - self.start_time
        pictures = step.images or step.x_0 or []
        for (row, column), picture in zip(cells, pictures, strict=False):
            self.sources[row][column] = jpeg_uri(picture, SIDE)
            if step.images:
                self.grid.paste(picture, row, column)
        return bool(pictures)

    def sheet(self, done: bool = False) -> str:
        """The grid as it is, as HTML. `done`: its cells can be opened."""
        return sheet(self.comparison, self.info.labels, self.sources, done)


class Compare(SettingsTab):
    """The tab's components, and what happens between them."""

    verb, makes, kind = "Compare", "grid", "compare"
    ready = status_line(0, "Choose what varies, and press Compare<kbd> (Ctrl + Enter)</kbd>.")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.lay_out_columns()
        sides, model = (self.columns, self.rows), studio.model
        pickers = (*(side.classes for side in sides), self.controls.classes)
        self.picker_model = bind_to_model(studio, *pickers, tab=self.tab)
        settings = [*self.columns.inputs, *self.rows.inputs, *self.controls.inputs]
        for side in sides:
            side.axis.input(partial(self.offer_values, side), [side.axis, model], side.inputs, **GLUE)
            side.axis.change(self.show_varied, [each.axis for each in sides], [*self.fixed.values()], **GLUE)
        self.wire_run([self.picker_model, model, *settings], [self.stage, self.save])
        self.wire_recipe([self.picker_model, *settings])
        self.wire_settings()
        self.stage.select(self.open_cell, self.job, [model, studio.tabs, *studio.shown], **CHECK)

    def lay_out_controls(self) -> None:
        info = self.studio.info
        first = Request.first(info)
        first = replace(first, num_inference_steps=min(FEW_STEPS, first.num_inference_steps))
        self.columns = side_controls("Columns", "class", info)
        self.rows = side_controls("Rows", "guidance_scale", info)
        classes = ClassDropdown(
            class_choices(info.labels),
            value=next(iter(info.labels)),
            label="Class (type to search)",
            info="Of all cells; it rests where columns or rows vary it.",
            interactive=False,
            elem_id="compare-class",
        )
        seed, _ = seed_picker("compare")
        settings = self.lay_out_sampling(first, "skip_unconditional")
        settings["guidance_scale"].interactive = False
        self.controls = RequestControls(Request, classes, None, seed, settings)
        self.lay_out_run()
        self.lay_out_recipe()
        self.lay_out_settings()

    def lay_out_result(self) -> None:
        self.lay_out_status()
        self.stage = gr.HTML(message("The grid comes here, cell by cell."), js_on_load=OPEN, elem_id="compare-stage")
        self.save = gr.DownloadButton("Save as PNG", size="sm", visible=False, elem_id="compare-save")

    # --- what varies -----------------------------------------------------------------------------------------

    @property
    def fixed(self) -> dict[str, Any]:
        """What can vary, but for the model -> the control that says it where it does not."""
        named = {"class": self.controls.classes, "seed": self.controls.seed}
        return named | {key: control for key, control in self.controls.settings.items() if key != "skip_unconditional"}

    def offer_values(self, side: SideControls, axis: str, model: str) -> Update:
        """Another setting was chosen to vary: values to begin with."""
        info = self.engine.describe(model)
        return side.updates(Side(axis, default_values(axis, info, self.engine)), info, self.engine)

    def show_varied(self, *axes: str) -> Update:
        """What varies is not set below: its control rests."""
        return {control: gr.update(interactive=key not in axes) for key, control in self.fixed.items()}

    # --- a run -----------------------------------------------------------------------------------------------

    def make_job(self, picker_model: ModelInfo, model: str, *asked: Any) -> GridJob:
        """The grid of these settings."""
        info = self.engine.describe(model)
        check_classes(picker_model, info)
        number = len(self.columns.inputs)
        columns, rows, settings = asked[:number], asked[number : 2 * number], asked[2 * number :]
        base = self.controls.request(model, *settings)
        comparison = Comparison(base, read_side(info, *columns), read_side(info, *rows))
        job = GridJob(comparison)
        for name in dict.fromkeys(request.model for request in job.requests):
            self.engine.locate(name)  # looks through the runs: once per model, not per cell
        self.engine.check_time(job.requests)
        return job

    def started(self, job: GridJob) -> Update:
        """The grid without its pictures."""
        job.start(self.engine.describe(job.comparison.base.model))
        return {self.stage: job.sheet()}

    def preview(self, job: GridJob, step: Frame) -> Update:
        """The grid so far, and how long it will take if the cells to come cost what these did."""
        drawn = len(job.cells[step.request_index]) * (step.index + 1) / step.total
        fraction = (sum(map(len, job.cells[: step.request_index])) + drawn) / job.total
        left = duration(job.seconds * (1 - fraction) / fraction)
        text = f"<b>{job.done}</b> of {job.total} cells, step {step.index + 1} of {step.total} · {left} left"
        return {self.stage: job.sheet(), self.status: status_line(fraction, text)}

    def result(self, job: GridJob, step: Frame | None) -> Update:
        """The grid as it is, to be opened cell by cell, and saved with the recipe of the whole."""
        comparison = job.comparison
        name = f"compare-{comparison.columns.axis}-{comparison.rows.axis}"
        if not job.file:
            job.file = publish_picture(job.grid.image, name, self.save, to_recipe(comparison, job.info))
            job.grid = None
        return {self.stage: job.sheet(done=True), self.save: gr.update(value=job.file, visible=True)}

    def ended(self, job: GridJob) -> Update:
        """A grid that was stopped can be saved, too."""
        if job.info is None:  # it was stopped before its turn
            return {}
        if job.done == job.total:
            text = f"{job.total} cells in {duration(job.seconds)} · click one to open it in Generate"
            return {self.status: status_line(1, text)}
        text = f"Stopped after {job.done} of {job.total} cells."
        return {self.status: status_line(job.done / job.total, text)} | (self.result(job, None) if job.done else {})

    def open_cell(self, job: GridJob | None, event: gr.EventData) -> Update:
        """A cell was clicked: its settings on the Generate tab."""
        with plain_errors():
            if job is None:
                raise ValueError("This grid is not there any more: draw it again.")
            request = job.comparison.request(event.row, event.column)
            info = self.engine.describe(request.model)
            names = tuple(names_of(label, job.info.labels) for label in request.class_labels)
            request = replace(request, class_names=names).for_labels(info.labels)
        return {
            self.studio.model: self.studio.choose_model(info.name),
            self.studio.tabs: gr.Tabs(selected="generate"),
            **self.studio.show_request(request, info),
        }

    def apply_recipe(self, recipe: Mapping[str, Any], info: ModelInfo, path: str) -> tuple[Request, Update, list[str]]:
        """All controls as a saved grid says."""
        comparison, notes = from_recipe(recipe, info)
        update = self.show_request(comparison.base, info)
        for controls, side in ((self.columns, comparison.columns), (self.rows, comparison.rows)):
            update |= controls.updates(side, info, self.engine)
        return comparison.base, update, notes

    # --- settings that the browser keeps, or a link names ------------------------------------------------------

    class_keys = ("class_labels", "column_classes", "row_classes")

    @property
    def by_name(self) -> dict[str, Component]:
        return self.columns.by_name("column") | self.rows.by_name("row") | super().by_name

    def restore(self, saved: Mapping[str, Any], info: ModelInfo) -> tuple[Update, list[str]]:
        """What varies, too, where both sides can be used."""
        update, notes = super().restore(saved, info)
        sides = {"column": self.columns, "row": self.rows}
        try:
            read = {name: controls.read(name, saved, info, notes) for name, controls in sides.items()}
            Comparison(Request(info.name, (None,), (0,)), read["column"], read["row"])
        except (ValueError, TypeError, AttributeError):
            notes.append("what varies cannot be read")
            read = {name: controls.read(name, {}, info, []) for name, controls in sides.items()}
        for name, controls in sides.items():
            update |= controls.updates(read[name], info, self.engine)
        return update, notes
