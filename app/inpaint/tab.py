"""The Inpaint tab: open a picture, paint what is to be repainted, watch it, compare, take a variant and paint on."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np

from app.common import recipes
from app.common.controls import NO_CLASS, check_offered, for_model
from app.common.errors import plain_errors, sentence, warn
from app.common.images import open_image
from app.common.stage import STAGE_SIDE, WAITING, describe_step, duration, message, pictures, status_line
from app.common.studio import CHECK, GLUE, GPU, Studio, Update, on_end
from app.engine.engine import ModelInfo
from app.inpaint.controls import (
    brought,
    method_choices,
    preset_of,
    settings_to_values,
    values_to_settings,
    wire_presets,
)
from app.inpaint.easel import Easel, editor_value, enlarge, footprint_view, mask_of, mask_png, open_mask
from app.inpaint.endpoint import make_endpoint
from app.inpaint.page import CELLS, PAINTING, READY, RESULT, Page, brush
from app.inpaint.request import FALLBACK, Inpainting, fingerprint, mask_from, settings_from
from app.inpaint.session import Job, Outcome, publish_outcome


class Inpaint(Page):
    """What happens between the tab's components. Methods that return an Update touch only what is in it."""

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.engine, self.pick, self._model, self._tabs = studio.engine, studio.pick, studio.model, studio.tabs
        self.offered = gr.State(studio.info)  # the model whose classes the picker shows
        self._wire(studio)

    def _wire(self, studio: Studio) -> None:
        model, easel, job, outcome, editor = studio.model, self.easel, self.job, self.outcome, self.editor
        settings = self.controls.all
        views = [
            *(self.view, self.editor, self.stage, self.cells, self.slider, self.variants),
            *(self.invert, self.clear, self.use, self.save),
        ]
        page = [self.start, self.stop, self.status, easel, job, outcome, *views]

        offers = [self.controls.label, self.controls.method, self.offered]
        shown = [*offers, self.preset, self.controls.sampler, self.controls.steps]
        for event in (studio.opened.success, studio.page.load):
            event(self.offer, [model, *offers], shown, **GLUE)
        wire_presets(self.preset, self.controls, model, self.engine.describe)
        self.open.upload(self.take_upload, self.open, page, **CHECK)
        self.example.select(self.take_example, model, [*page, self.controls.label], **GLUE)
        self.send.click(
            self.take_generated, [studio.picture, model], [*page, studio.tabs, self.controls.label], **CHECK
        )
        self.use.click(self.take_variant, [outcome, easel], page, **CHECK)
        loaded = [self.recipe, model, self.preset, *settings, *page, self.offered]
        self.recipe.upload(self.load, [self.recipe, model, easel], loaded, **CHECK)

        self.open_mask.upload(self.load_mask, [self.open_mask, easel], page, **CHECK)
        self.invert.click(self.invert_mask, [editor, easel], editor, **GLUE)
        self.clear.click(self.clear_mask, easel, editor, **GLUE)

        seen = [self.view, model, editor, easel, job, outcome, *settings]
        self.view.input(self.look, seen, views, trigger_mode="always_last", **GLUE)
        edges = [self.controls.area, self.controls.grow, self.controls.feather]
        gr.on([edge.change for edge in edges], self.redraw, seen, self.cells, trigger_mode="always_last", **GLUE)
        self.variants.select(self.choose, outcome, [self.slider, self.save, outcome], **GLUE)

        check = self.start.click(self.begin, [self.offered, model, editor, easel, *settings], page, **CHECK)
        run = check.success(self.run, job, page, show_progress="hidden", api_visibility="private", **GPU)
        on_end(run, self.finish, [job, self.easel], page)
        self.stop.click(None, cancels=[run])
        gr.api(make_endpoint(self.engine, self.slider), api_name="inpaint", **GPU)

    # --- the picture -----------------------------------------------------------------------------------------

    def take_upload(self, path: str) -> Update:
        """A picture was opened, pasted or dropped."""
        with plain_errors():
            return self._take(Easel(open_image(path), Path(path).stem))

    def take_example(self, model: str, event: gr.SelectData) -> Update:
        """An example was clicked: the picture, its mask, and its class, with which its name begins."""
        picture, mask = self.examples[event.index]
        easel = Easel(open_image(picture), picture.stem)
        update = self._take(easel, open_mask(mask, easel.size))
        labels = self.engine.describe(model).labels.items()
        label = next((index for index, name in labels if picture.stem.startswith(name)), None)
        return update if label is None else update | {self.controls.label: label}

    def take_generated(self, path: str | None, model: str) -> Update:
        """The picture chosen on the Generate tab, with its class."""
        with plain_errors():
            if path is None:
                raise ValueError("There is no picture to send yet: generate one first.")
            update = self._take(Easel(open_image(path), Path(path).stem)) | {self._tabs: gr.Tabs(selected="inpaint")}
            recipe = recipes.read(path)
        if recipe["model"] == model:
            label = recipe["class_label"]
            update[self.controls.label] = NO_CLASS if label is None else label
        return update

    def take_variant(self, outcome: Outcome, easel: Easel) -> Update:
        """A variant becomes the picture, to paint on."""
        with plain_errors():
            picture = open_image(outcome.files[outcome.chosen])
        text = status_line(0, "This is the picture now: paint on, and press Inpaint (Ctrl + Enter).")
        return self._take(Easel(picture, easel.name)) | {self.status: text}

    def _take(self, easel: Easel, mask: np.ndarray | None = None) -> Update:
        """Put a picture on the easel; a mask is of its own size."""
        value = editor_value(easel.display(), easel.lay(mask))
        return {
            self.easel: easel,
            self.outcome: None,
            self.status: READY,
            **self.show(PAINTING),
            self.editor: gr.update(value=value, brush=brush(easel.shown), visible=True),
        }

    # --- the mask --------------------------------------------------------------------------------------------

    def load_mask(self, path: str, easel: Easel | None) -> Update:
        """A mask was opened: it takes the place of the painted one."""
        with plain_errors():
            if easel is None:
                raise ValueError("Open the picture first, then its mask.")
            mask = easel.lay(open_mask(path, easel.size))
            return {
                **self.show(PAINTING),
                self.editor: gr.update(value=editor_value(easel.display(), mask), visible=True),
            }

    def invert_mask(self, value: dict[str, Any] | None, easel: Easel | None) -> Any:
        """Paint what is not painted."""
        if easel is None:
            return gr.skip()
        painted = easel.lay(~easel.mask(mask_of(value, easel.shown)))
        return editor_value(easel.display(), painted)

    def clear_mask(self, easel: Easel | None) -> Any:
        """Paint nothing."""
        return gr.skip() if easel is None else editor_value(easel.display(), easel.lay(None))

    # --- what is shown ---------------------------------------------------------------------------------------

    def look(
        self,
        view: str,
        model: str,
        value: dict[str, Any] | None,
        easel: Easel | None,
        job: Job | None,
        outcome: Outcome | None,
        *values: Any,
    ) -> Update:
        """Switch the view."""
        if easel is None:
            return {self.view: PAINTING}
        update = self.show(view, job, outcome)
        if view == CELLS:
            update[self.cells] = gr.update(value=self._draw_cells(model, value, easel, values), visible=True)
        elif view == RESULT and not outcome and not (job and job.running):
            hint = "There is no result yet: press Inpaint."
            update[self.stage] = gr.update(value=message(hint), visible=True)
        return update

    def redraw(self, view: str, model: str, value: Any, easel: Easel | None, *rest: Any) -> Any:
        """The mask's edge was changed: show it."""
        _, _, *values = rest
        return self._draw_cells(model, value, easel, values) if easel and view == CELLS else gr.skip()

    def _draw_cells(self, model: str, value: dict[str, Any] | None, easel: Easel, values: tuple) -> str:
        """What will be repainted, or the sentence that says why nothing would be."""
        info = self.engine.describe(model)
        try:
            mask = easel.mask(mask_of(value, easel.shown))
            request = Inpainting(values_to_settings(model, *values), easel.picture(), mask)
            canvas = request.small_canvas(info.image_size, info.cells, STAGE_SIDE)
        except ValueError as error:
            return message(sentence(error))
        legend = "teal: new, fading in at its edge · amber: made anew, but not kept · lines: the tokens of both"
        return pictures([footprint_view(canvas, info.cells, info.tokens)], [legend])

    def choose(self, outcome: Outcome, event: gr.SelectData) -> Update:
        """A variant was clicked."""
        outcome.chosen = event.index
        return {self.outcome: outcome, **self._compare(outcome)}

    def _compare(self, outcome: Outcome) -> Update:
        """The chosen variant next to what it was made from."""
        return {
            self.slider: gr.update(value=(outcome.before, outcome.shown[outcome.chosen]), visible=True),
            self.save: gr.update(
                label=f"Save PNG · {outcome.captions[outcome.chosen]}",
                value=outcome.files[outcome.chosen],
                visible=True,
            ),
        }

    # --- a run -----------------------------------------------------------------------------------------------

    def begin(
        self, offered: ModelInfo, model: str, value: dict[str, Any] | None, easel: Easel | None, *values: Any
    ) -> Update:
        """Check picture, mask and settings before the run joins the queue."""
        with plain_errors():
            info = self.engine.describe(model)
            check_offered(offered, info)
            if easel is None:
                raise ValueError("There is no picture yet: open or paste one, or take an example.")
            mask = easel.mask(mask_of(value, easel.shown))
            settings = values_to_settings(model, *values)
            request = Inpainting(settings, easel.picture(), mask)
            request.check(info)
            self.engine.check_time((request,))
            job = Job(settings, easel, mask_png(mask))
        captions = job.captions()
        return {
            self.job: job,
            self.status: WAITING,
            self.start: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            **self.show(RESULT, job),
            self.stage: gr.update(value=pictures([easel.display()] * len(captions), captions), visible=True),
        }

    def run(self, job: Job) -> Iterator[Update]:
        """Frame by frame; stopped by being closed, as Gradio can from the first update on, which waits for nothing."""
        yield {self.status: WAITING}
        start = perf_counter()
        request, captions = job.request(), job.captions()
        with plain_errors():
            info = self.engine.describe(request.model)
            with closing(self.engine.run((request,))) as frames:
                for frame in frames:
                    job.seen, job.total, job.seconds = frame.index + 1, frame.total, perf_counter() - start
                    if frame.x_0 and not frame.images:
                        yield {
                            self.stage: pictures(frame.x_0, captions),
                            self.status: status_line(frame.index / frame.total, describe_step(frame)),
                        }
            job.outcome = publish_outcome(job, request, frame.images, info, self.slider)

    def finish(self, job: Job | None, easel: Easel | None) -> Update:
        """Ended, stopped or failed: the page is ready again, and the painted mask is still there."""
        update = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False), self.status: READY}
        if job is None:
            return update
        job.running = False
        if job.easel is not easel:  # another picture was opened meanwhile
            return update
        if job.outcome is None:
            if job.seen:
                text = f"Stopped after step <b>{job.seen}</b> of {job.total}. The mask is still there."
                update[self.status] = status_line(job.seen / job.total, text)
            return update | self.show(PAINTING)
        return {
            **update,
            self.outcome: job.outcome,
            **self.show(RESULT, job, job.outcome),
            **self._compare(job.outcome),
            self.variants: gr.update(value=job.outcome.shown, visible=len(job.outcome.shown) > 1),
            self.status: status_line(1, f"{job.total} steps in {duration(job.seconds)}"),
        }

    # --- recipes, models, clients ----------------------------------------------------------------------------

    def load(self, path: str, model: str, easel: Easel | None) -> Update:
        """Set all controls and the mask from a saved picture; without a picture on the easel it takes its place."""
        with plain_errors():
            recipe = recipes.read(path, kind="inpaint")
            info = self.engine.describe(self.engine.find(recipe.get("model"), model))
            settings, notes = settings_from(recipe, info)
            update = {} if easel else self._take(easel := Easel(open_image(path), Path(path).stem))
        mask = mask_from(recipe)
        if mask is None or mask.shape not in (easel.size[::-1], easel.shown[::-1]):
            notes.append("its mask is missing, or does not fit the picture: paint one")
        else:
            update |= self.show(PAINTING)
            laid = mask if mask.shape == easel.size[::-1] else enlarge(mask, easel.size)  # before: as the editor had it
            value = editor_value(easel.display(), easel.lay(laid))
            update[self.editor] = gr.update(value=value, brush=brush(easel.shown), visible=True)
        warn(notes)
        same = recipe.get("source") == fingerprint(easel.picture())
        text = f"Recipe loaded: seed {settings.seeds[0]}"
        if not same:
            text += ". It was made from another picture: open that one for the same result."
        else:
            text += ", as far as it goes." if notes else ". Press Inpaint for the same picture again."
        values = zip(self.controls.all, settings_to_values(settings, info), strict=True)
        return {
            **update,
            self.recipe: None,
            self._model: self.pick(info.name),
            self.preset: preset_of(settings, info),
            self.status: status_line(0, text),
            self.offered: info,
            **dict(values),
        }

    def offer(self, model: str, label: int, method: str, before: ModelInfo) -> Update:
        """Another model was chosen: its classes, and the methods that it can do."""
        info = self.engine.describe(model)
        if info == before:
            return {self.offered: info}
        update, choices = for_model(info, [label], before), method_choices(info)
        update["value"] = update["value"][0]
        controls, found = self.controls, {self.controls.label: update, self.offered: info}
        if method in dict(choices).values():
            return found | {controls.method: gr.update(choices=choices)}
        moved = {self.preset: None, controls.method: gr.update(choices=choices, value=FALLBACK)}
        return found | moved | dict(zip([controls.sampler, controls.steps], brought(FALLBACK), strict=True))
