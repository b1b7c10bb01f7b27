"""The Inpaint tab: open a picture, paint what is to be repainted, watch it, compare, take a variant and paint on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app.common import recipes
from app.common.controls import NO_CLASS, check_offered, for_model
from app.common.errors import plain_errors, sentence
from app.common.images import open_image
from app.common.stage import STAGE_SIDE, describe_step, duration, message, pictures, status_line
from app.common.studio import CHECK, GLUE, GPU, Studio, Update
from app.engine.engine import ModelInfo
from app.engine.frames import Frame
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
from app.inpaint.page import CELLS, PAINTING, RESULT, Page, brush
from app.inpaint.request import FALLBACK, Inpainting, Settings, mask_from, settings_from, source_of
from app.inpaint.session import InpaintJob, Outcome, publish_outcome


class Inpaint(Page):
    """What happens between the tab's components. Methods that return an Update touch only what is in it."""

    def __init__(self, studio: Studio):
        super().__init__(studio)
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
        self.wire_recipe([self.preset, *settings, easel, outcome, job, *views, self.offered], [easel])

        self.open_mask.upload(self.load_mask, [self.open_mask, easel], page, **CHECK)
        self.invert.click(self.invert_mask, [editor, easel], editor, **GLUE)
        self.clear.click(self.clear_mask, easel, editor, **GLUE)

        seen = [self.view, model, editor, easel, job, outcome, *settings]
        self.view.input(self.look, seen, views, trigger_mode="always_last", **GLUE)
        edges = [self.controls.area, self.controls.grow, self.controls.feather]
        gr.on([edge.change for edge in edges], self.redraw, seen, self.cells, trigger_mode="always_last", **GLUE)
        self.variants.select(self.choose, outcome, [self.slider, self.save, outcome], **GLUE)

        self.wire_run([self.offered, model, editor, easel, *settings], [easel, outcome, *views])
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
            update = self._take(Easel(open_image(path), Path(path).stem))
            recipe = recipes.read(path)
        update[self.studio.tabs] = gr.Tabs(selected="inpaint")
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
            self.job: None,  # a run that goes on is of the picture before
            self.status: self.ready,
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
        job: InpaintJob | None,
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

    def ask(
        self, offered: ModelInfo, model: str, value: dict[str, Any] | None, easel: Easel | None, *values: Any
    ) -> InpaintJob:
        """The run of this picture, mask and settings."""
        info = self.engine.describe(model)
        check_offered(offered, info)
        if easel is None:
            raise ValueError("There is no picture yet: open or paste one, or take an example.")
        mask = easel.mask(mask_of(value, easel.shown))
        settings = values_to_settings(model, *values)
        request = Inpainting(settings, easel.picture(), mask)
        request.check(info)
        self.engine.check_time((request,))
        return InpaintJob((), settings, easel, mask_png(mask))

    def begun(self, job: InpaintJob) -> Update:
        """The picture as it is, in the place of each variant."""
        captions = job.captions()
        shown = pictures([job.easel.display()] * len(captions), captions)
        return self.show(RESULT, job) | {self.stage: gr.update(value=shown, visible=True)}

    def started(self, job: InpaintJob) -> Update:
        """Nothing is to be seen of it."""
        job.start(self.engine.describe(job.settings.model))
        return {}

    def preview(self, job: InpaintJob, step: Frame) -> Update:
        """The variants so far."""
        return {
            self.stage: pictures(step.x_0, job.captions()),
            self.status: status_line(step.index / step.total, describe_step(step)),
        }

    def result(self, job: InpaintJob, step: Frame) -> Update:
        """Kept for `ended`, which shows it unless another picture was opened meanwhile."""
        job.outcome = publish_outcome(job, step.images, self.slider)
        return {}

    def ended(self, job: InpaintJob) -> Update:
        """The painted mask is still there."""
        job.running = False
        if job.outcome is None:
            update = self.show(PAINTING)
            if job.done:
                text = f"Stopped after step <b>{job.done}</b> of {job.total}. The mask is still there."
                update[self.status] = status_line(job.done / job.total, text)
            return update
        return {
            self.outcome: job.outcome,
            **self.show(RESULT, job, job.outcome),
            **self._compare(job.outcome),
            self.variants: gr.update(value=job.outcome.shown, visible=len(job.outcome.shown) > 1),
            self.status: status_line(1, f"{job.total} steps in {duration(job.seconds)}"),
        }

    # --- recipes, models, clients ----------------------------------------------------------------------------

    def apply_recipe(
        self, recipe: Mapping[str, Any], info: ModelInfo, path: str, easel: Easel | None
    ) -> tuple[Settings, Update, list[str]]:
        """All controls and the mask as a saved picture says; without a picture on the easel it takes its place."""
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
        if recipe.get("source") != source_of(easel.picture()):
            text = "It was made from another picture: open that one for the same result."
            update[self.status] = status_line(0, f"Recipe loaded: seed {settings.seeds[0]}. {text}")
        update |= {self.preset: preset_of(settings, info), self.offered: info}
        return settings, update | dict(zip(self.controls.all, settings_to_values(settings, info), strict=True)), notes

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
