"""The Compare tab: classes down, one setting across, all at one seed, drawn cell by cell on one labelled grid."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gradio as gr

from app.common import recipes
from app.common.comparison import AXES, Comparison, from_recipe, to_recipe
from app.common.controls import (
    check_offered,
    class_picker,
    follow_model,
    from_request,
    run_controls,
    sampling_controls,
    seed_picker,
    to_label,
    to_request,
)
from app.common.errors import plain_errors, warn
from app.common.images import jpeg_uri, uri
from app.common.stage import WAITING, duration, status_line
from app.common.studio import CHECK, GLUE, GPU, Studio, Update, on_end
from app.compare.grid import empty_grid, join_values, parse_values
from app.engine.engine import ModelInfo
from app.engine.frames import PREVIEW_SECONDS, Frame
from mdt_core.pipeline.labelled_grid import LabelledGrid

READY = status_line(0, "Pick classes and what varies, and press Compare (Ctrl + Enter).")
AGAIN = "Press Compare for the same grid again."
EMPTY = '<div class="stage empty"><p>The grid comes here, cell by cell.</p></div>'
OFFERED_MODELS = 6
SIDE = 1600  # pixels of the largest grid that is streamed


@dataclass
class Grid:
    """A comparison, its picture, and how far it has come; kept by the session."""

    comparison: Comparison
    info: ModelInfo
    drawing: LabelledGrid
    cells: int
    done: int = 0
    seconds: float = 0.0


class Compare:
    """The tab's components, and what happens between them."""

    def __init__(self, studio: Studio):
        self.engine, self.pick = studio.engine, studio.pick
        with gr.Row(equal_height=False):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                self._lay_out_controls(studio)
            with gr.Column(min_width=500, elem_classes="result"):
                self.status = gr.HTML(READY, elem_id="compare-status")
                self.stage = gr.HTML(EMPTY, elem_id="compare-stage")
                self.save = gr.DownloadButton("Save as PNG", size="sm", visible=False, elem_id="compare-save")
        self.comparison, self.grid = gr.State(), gr.State()
        self.offered = follow_model(studio, self.classes)
        self._wire(studio)

    def _lay_out_controls(self, studio: Studio) -> None:
        labels = list(studio.info.labels)
        self.classes = class_picker(studio.info, labels[:3], 16, "compare")
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
        self.seed = seed_picker("compare")
        self.sampling = sampling_controls(studio.info, "compare")
        self.start, self.stop, self.recipe = run_controls("Compare", "grid")

    def _wire(self, studio: Studio) -> None:
        page = [self.start, self.stop, self.status, self.stage, self.save]
        settings = [self.classes, self.axis, self.values, self.seed, *self.sampling.inputs]
        self.axis.input(self.offer_values, self.axis, self.values, **GLUE)
        asked = [self.offered, studio.model, *settings]
        check = self.start.click(self.begin, asked, [*page, self.comparison, self.grid], **CHECK)
        run = check.success(
            self.run, self.comparison, [*page, self.grid], show_progress="hidden", api_visibility="private", **GPU
        )
        on_end(run, self.finish, self.grid, page)
        self.stop.click(None, cancels=[run])
        loaded = [self.recipe, studio.model, *settings, self.status, self.offered]
        self.recipe.upload(self.load, [self.recipe, studio.model], loaded, **CHECK)

    def offer_values(self, axis: str) -> str:
        """Values to begin with: of models, those there are now, oldest checkpoint first."""
        models = list(self.engine.models)[:OFFERED_MODELS]
        return join_values(reversed(models)) if axis == "model" else AXES[axis].default

    def begin(
        self,
        offered: ModelInfo,
        model: str,
        classes: list[int],
        axis: str,
        values: str,
        seed: int,
        sampler: str,
        *sampling: Any,
    ) -> Update:
        """Check the settings before the run joins the queue."""
        with plain_errors():
            check_offered(offered, self.engine.describe(model))
            base = to_request(model, [], 1, seed, sampler, *sampling)
            labels = tuple(map(to_label, classes))
            comparison = Comparison(base, labels, axis, parse_values(axis, values))
            requests = comparison.requests()
            for name in dict.fromkeys(request.model for request in requests):
                self.engine.locate(name)  # looks through the runs: once per model, not per cell
            self.engine.check_time(requests)
        return {
            self.comparison: comparison,
            self.grid: None,
            self.status: WAITING,
            self.start: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            self.save: gr.update(visible=False),
        }

    def run(self, comparison: Comparison) -> Iterator[Update]:
        """Cell by cell; stopped by being closed."""
        with plain_errors():
            info = self.engine.describe(comparison.base.model)
            requests = comparison.requests(info.labels)
            drawing = empty_grid(comparison, info.labels, info.image_size)
        grid, cells = Grid(comparison, info, drawing, len(requests)), comparison.cells()
        start, shown = perf_counter(), 0.0
        yield {self.grid: grid, self.stage: show(jpeg_uri(drawing.image, SIDE))}
        with plain_errors(), closing(self.engine.run(requests)) as frames:
            for frame in frames:
                picture = (frame.images or frame.x_0 or [None])[0]
                if picture:
                    drawing.paste(picture, *cells[frame.job])
                grid.done = frame.job + bool(frame.images)
                grid.seconds = perf_counter() - start
                if picture and perf_counter() - shown >= PREVIEW_SECONDS:
                    yield {self.stage: show(jpeg_uri(drawing.image, SIDE)), self.status: describe(frame, grid)}
                    shown = perf_counter()
        yield self._publish(grid)

    def _publish(self, grid: Grid) -> Update:
        """The grid as it is, to be looked at and saved with the recipe of the whole."""
        comparison = grid.comparison
        name = f"compare-{comparison.axis}-seed-{comparison.base.seeds[0]}"
        file = recipes.publish_picture(grid.drawing.image, name, self.save, to_recipe(comparison, grid.info))
        return {self.stage: show(uri(file)), self.save: gr.update(value=file, visible=True)}

    def finish(self, grid: Grid | None) -> Update:
        """Ended, stopped or failed: the page is ready again."""
        ready = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False), self.status: READY}
        if grid and grid.done == grid.cells:
            ready[self.status] = status_line(1, f"{grid.cells} cells in {duration(grid.seconds)}")
        elif grid:
            ready[self.status] = status_line(
                grid.done / grid.cells, f"Stopped after {grid.done} of {grid.cells} cells."
            )
            ready |= self._publish(grid) if grid.done else {}
        return ready

    def load(self, path: str, model: str) -> list[Any]:
        """Set all controls from a saved grid."""
        with plain_errors():
            recipe = recipes.read(path, kind="compare")
            info = self.engine.describe(self.engine.find(recipe.get("model"), model))
            comparison, notes = from_recipe(recipe, info)
        warn(notes)
        classes, _, *sampling = from_request(comparison.base, info, comparison.class_labels)
        values = join_values(comparison.values)
        text = status_line(0, "Recipe loaded" + (", as far as it goes." if notes else f". {AGAIN}"))
        return [None, self.pick(info.name), classes, comparison.axis, values, *sampling, text, info]


def show(uri: str) -> str:
    """The grid on the page."""
    return f'<div class="stage sheet"><img src="{uri}" alt="Grid of classes and values"></div>'


def describe(frame: Frame, grid: Grid) -> str:
    """Where a comparison is, and how long it will take if the cells to come cost what these did."""
    done = frame.job + (frame.index + 1) / frame.total
    left = grid.seconds * (grid.cells - done) / done
    text = (
        f"Cell <b>{frame.job + 1}</b> of {grid.cells}, step {frame.index + 1} of {frame.total} · {duration(left)} left"
    )
    return status_line(done / grid.cells, text)
