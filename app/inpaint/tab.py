"""The Inpaint tab: open a picture, paint what is to be repainted, watch it, compare, take a variant and paint on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from gradio.events import Dependency

from app.common import recipes
from app.common.classes.picker import bind_to_model, check_classes
from app.common.controls import setting_update
from app.common.errors import plain_errors, sentence
from app.common.images import publish, publish_picture, uploaded
from app.common.presets import apply_preset
from app.common.stage import describe_step, duration, message, pictures, status_line
from app.common.studio import CHECK, GLUE, GPU, Studio, Update, always_last
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Label, Request
from app.engine.settings import steps_for
from app.inpaint.endpoint import make_endpoint
from app.inpaint.footprint import LEGEND, draw_footprint, gains_detail
from app.inpaint.job import InpaintJob, Results
from app.inpaint.live import LivePainting
from app.inpaint.masks import enlarge, open_mask
from app.inpaint.page import PAINTING, RESULT, method_choices
from app.inpaint.painter import SETTLED, Painted, mask_of
from app.inpaint.request import FALLBACK, InpaintRequest, from_recipe, mask_from, source_of, suited
from app.inpaint.source_image import SourceImage
from mdt_core.inpainting import METHODS

OVERLAY_SIDE = 1024  # pixels of the drawing of what will be repainted
KEPT = "v[0] && {picture: v[0].source, name: v[0].name, mask: v[0].mask?.path ?? null}"  # of the painter's value


class Inpaint(LivePainting):
    """What happens between the tab's components."""

    def __init__(self, studio: Studio):
        super().__init__(studio)
        pickers = self.controls.classes, self.controls.mix.other
        self.picker_model = bind_to_model(studio, *pickers, tab=self.tab)
        settings, model = self.controls.inputs, studio.model
        page = [self.source, self.results, *self.switched]
        asked = [self.painter, self.picker_model, model, self.source, *settings]
        run = self.wire_run(asked, page, js=SETTLED)
        self._wire_settings(studio, run)
        pointed = self.pictures.wire(studio, self.controls.classes)
        self.wire_live(asked, page, js=SETTLED)
        self.live.look_at(pointed.then, self.thrown.then)
        self._wire_picture(studio)
        set_by_recipe = [self.presets.model, self.picker_model, self.job, *self.controls.outputs, *page]
        self.wire_recipe(set_by_recipe, [self.source])
        self.wire_history(run)
        gr.api(make_endpoint(self.engine, self.painter), api_name="inpaint", **GPU)

    def _wire_settings(self, studio: Studio, run: Dependency) -> None:
        """A method brings its trajectory along; a model what it can do, and its own settings."""
        settings = self.controls.settings
        method, sampler, steps = (settings[key] for key in ("method", "sampler", "num_inference_steps"))
        loaded = self.wire_settings([self.presets.model])
        self.methods_offered = self.presets.wire(studio, self.controls, run, loaded, self.offer_methods)
        method.input(self.bring_trajectory, method, [sampler, steps, settings["first_timestep"]], **GLUE)
        sampler.input(self.bound_steps, [sampler, steps], steps, **GLUE)

    def _wire_picture(self, studio: Studio) -> None:
        model, source, painter = studio.model, self.source, self.painter
        page = [source, self.results, self.job, self.status, *self.switched]
        studio.page.load(self.bring_back, studio.kept, page, **GLUE)
        self.open_button.upload(self.load_upload, self.open_button, page, **CHECK)
        self.example.select(self.load_example, model, [*page, *self.controls.outputs], **GLUE)
        self.send.click(
            self.load_generated, [studio.picture, model], [*page, studio.tabs, *self.controls.outputs], **CHECK
        )
        used = [painter, self.keep, self.results, source]
        self.use.click(self.load_variant, used, page, js=SETTLED, **CHECK)
        self.open_mask_button.upload(self.load_mask, [self.open_mask_button, source], page, **CHECK)
        always_last([self.view.input], self.choose_view, [self.view, self.job, self.results], [*self.switched], **GLUE)
        edges = [self.controls.settings[key].change for key in ("area", "grow", "feather")]
        asked = [painter, model, source, *self.controls.inputs]
        always_last(edges, self.draw_overlay, asked, painter, js=SETTLED, **GLUE)
        for event in (painter.overlay, self.methods_offered.then):
            event(self.draw_overlay, asked, painter, js=SETTLED, trigger_mode="always_last", **GLUE)
        area, grow = (self.controls.settings[key] for key in ("area", "grow"))
        covered = [painter, model, source, area, grow]
        always_last([area.change], self.advise, covered, self.closer, js=SETTLED, **GLUE)
        for event in (painter.stroke, painter.change):
            studio.keep(event, "painting", [painter], KEPT)
            event(self.advise, covered, self.closer, js=SETTLED, trigger_mode="always_last", **GLUE)
        self.live.look_at(self.closer.click(lambda: "masked", outputs=area, **GLUE).then)
        self.variants.select(self.select, self.results, [self.comparison, self.save, self.results], **GLUE)

    # --- the settings ----------------------------------------------------------------------------------------

    def offer_methods(self, model: str, before: ModelInfo, *values: Any) -> Update:
        """Another model was chosen: its own settings, and the methods that it can do, the chosen one among them."""
        update = self.presets.follow(model, before, *values)
        choices = method_choices(self.engine.describe(model))
        control = self.controls.settings["method"]
        method = update.get(control, dict(zip(self.controls.inputs, values, strict=True))[control])
        possible = method if method in dict(choices).values() else FALLBACK
        return update | {control: gr.update(choices=choices, value=possible)}

    def bring_trajectory(self, method: str) -> Update:
        """A method was chosen: it brings its sampler and its steps along."""
        return apply_preset(METHODS[method].trajectory(), self.controls.settings)

    def bound_steps(self, sampler: str, steps: int) -> Any:
        """A sampler was chosen: no more steps than it takes."""
        values = {"sampler": sampler, "num_inference_steps": min(steps, steps_for(sampler).high)}
        return setting_update("num_inference_steps", values)

    def show_request(self, request: Request, info: ModelInfo, class_labels: Sequence[Label] = ()) -> Update:
        """With the methods that the model can do."""
        request = suited(request, info, [])
        method = gr.update(choices=method_choices(info), value=request.method)
        update = super().show_request(request, info, class_labels)
        return update | {self.controls.settings["method"]: method, self.presets.model: info}

    # --- the picture -----------------------------------------------------------------------------------------

    def load_upload(self, path: str) -> Update:
        """A picture was opened, pasted or dropped."""
        with plain_errors():
            return self._load(SourceImage.open(path))

    def load_example(self, model: str, event: gr.SelectData) -> Update:
        """An example was clicked: the picture, its mask, and its class, with which its name begins."""
        picture, mask = self.examples[event.index]
        source = SourceImage.open(publish(picture.read_bytes(), picture.stem, self.painter))
        update = self._load(source, open_mask(mask, source.size))
        info = self.engine.describe(model)
        label = next((index for index, name in info.labels.items() if picture.stem.startswith(name)), None)
        return update if label is None else update | self.controls.class_updates([label], info)

    def load_generated(self, path: str | None, model: str) -> Update:
        """The picture chosen on the Generate tab, with its class."""
        with plain_errors():
            if path is None:
                raise ValueError("There is no picture to send yet: generate one first.")
            update = self._load(SourceImage.open(path)) | {self.studio.tabs: gr.Tabs(selected="inpaint")}
            recipe = recipes.read(path)
        if recipe["model"] == model:
            info = self.engine.describe(model)
            update |= self.controls.class_updates([recipes.find_label(recipe, info, [])], info)
        return update

    def load_variant(self, painted: Painted, keep: bool, results: Results, source: SourceImage) -> Update:
        """A variant becomes the picture, to paint on."""
        with plain_errors():
            variant = SourceImage.open(results.files[results.chosen], source.name)
            mask = mask_of(painted, source) if keep else None
        text = "This is the picture now: paint on, and press Inpaint<kbd> (Ctrl + Enter)</kbd>."
        return self._load(variant, mask) | {self.status: status_line(0, text)}

    def bring_back(self, kept: Any) -> Update:
        """The page was loaded again: picture and mask as they were, unless their files are gone."""
        try:
            painting = kept["painting"]
            source = SourceImage.open(uploaded({"path": painting["picture"]}), str(painting["name"]))
            seen = open_mask(uploaded({"path": painting["mask"]}), source.display_size) if painting["mask"] else None
        except (KeyError, TypeError, ValueError, OSError):  # nothing was opened yet, or a day has passed
            return gr.skip()
        return self._load(source, None if seen is None else enlarge(seen, source.size))

    def _load(self, source: SourceImage, mask: np.ndarray | None = None) -> Update:
        """Put a picture into the painter; a mask is of its own size."""
        return {
            self.source: source,
            self.results: None,
            self.job: None,  # a run that goes on is of the picture before
            self.status: self.ready,
            **self._edit(source, mask),
        }

    # --- the mask --------------------------------------------------------------------------------------------

    def load_mask(self, path: str, source: SourceImage | None) -> Update:
        """A mask was opened: it takes the place of the painted one."""
        with plain_errors():
            if source is None:
                raise ValueError("Open the picture first, then its mask.")
            return self._edit(source, open_mask(path, source.size))

    def _edit(self, source: SourceImage, mask: np.ndarray | None) -> Update:
        """Show the painter with a picture and a mask of its own size."""
        shown = gr.update(value=self.painter.show(source, mask), visible=True)
        return self.switch_to(PAINTING) | {self.painter: shown}

    # --- views -----------------------------------------------------------------------------------------------

    def choose_view(self, view: str, job: InpaintJob | None, results: Results | None) -> Update:
        """Switch the view."""
        update = self.switch_to(view, job, results)
        if view == RESULT and not results and not (job and job.running):
            update[self.stage] = gr.update(value=message("There is no result yet: press Inpaint."), visible=True)
        return update

    def draw_overlay(self, painted: Painted, model: str, source: SourceImage | None, *settings: Any) -> Any:
        """What will be repainted, where the painter asks for it, or the sentence that says why nothing would be."""
        if source is None or not painted or not painted.get("wants_overlay"):
            return gr.skip()
        info = self.engine.describe(model)
        try:
            request = self._request(model, painted, source, settings)
            canvas = request.small_canvas(info.image_size, info.cells, OVERLAY_SIDE)
        except ValueError as error:
            return painted | {"overlay": None, "legend": sentence(error)}
        drawing = draw_footprint(canvas, info.cells, info.tokens)
        return painted | {"overlay": publish_picture(drawing, "overlay", self.painter), "legend": LEGEND}

    def advise(self, painted: Painted, model: str, source: SourceImage | None, area: str, grow: int) -> dict:
        """Offer to repaint around the mask only, where the model would then see much more of a large picture."""
        side = self.engine.describe(model).image_size
        if source is None or not painted or not painted["mask"] or max(source.size) < 2 * side or area == "masked":
            return gr.update(visible=False)
        mask = open_mask(painted["mask"], source.display_size)
        return gr.update(visible=gains_detail(mask, source.size, side, area, grow))

    def _request(self, model: str, painted: Painted, source: SourceImage, settings: Any) -> InpaintRequest:
        """What the controls and the painter ask for."""
        request = self.controls.request(model, *settings)
        return replace(request, image=source.image(), mask=mask_of(painted, source))

    def select(self, results: Results, event: gr.SelectData) -> Update:
        """A variant was clicked."""
        results.chosen = event.index
        return {self.results: results, **self._compare(results)}

    def _compare(self, results: Results) -> Update:
        """The chosen variant next to what it was made from."""
        chosen = results.chosen
        pair = {"before": results.before, "after": results.display_files[chosen], "caption": results.captions[chosen]}
        label = f"Save PNG · {results.captions[chosen]}"
        return {
            self.comparison: gr.update(value=pair, visible=True),
            self.save: gr.update(label=label, value=results.files[chosen], visible=True),
        }

    # --- a run -----------------------------------------------------------------------------------------------

    def make_job(
        self, painted: Painted, picker_model: ModelInfo, model: str, source: SourceImage | None, *settings: Any
    ) -> InpaintJob:
        """The run of this picture, mask and settings."""
        info = self.engine.describe(model)
        check_classes(picker_model, info)
        if source is None:
            raise ValueError("There is no picture yet: open or paste one, or take an example.")
        request = self._request(model, painted, source, settings)
        request.box(info.image_size, info.cells)  # what is wrong with the mask is told before the queue
        self.engine.check_time((request,))
        return InpaintJob(request, source, painted)

    def files_of(self, job: InpaintJob) -> Sequence[str]:
        return job.results.files if job.results else []

    def queued(self, job: InpaintJob) -> Update:
        """The picture as it is, in the place of each variant."""
        before = pictures([job.source.display()] * len(job.captions), job.captions)
        return self.switch_to(RESULT, job) | {self.stage: gr.update(value=before, visible=True)}

    def started(self, job: InpaintJob) -> Update:
        """Nothing is to be seen of it."""
        job.start(self.engine.describe(job.request.model))
        return {}

    def preview(self, job: InpaintJob, step: Frame) -> Update:
        """The variants so far."""
        text = status_line(step.index / step.total, describe_step(step))
        return {self.stage: pictures(step.x_0, job.captions), self.status: text}

    def result(self, job: InpaintJob, step: Frame) -> Update:
        """Left to `ended`, which shows it unless another picture was opened meanwhile."""
        job.publish(step.images, self.painter)
        return {}

    def ended(self, job: InpaintJob) -> Update:
        """The result, or the painted mask, which is still there."""
        job.end()
        if results := job.results:
            return {
                self.results: results,
                **self.switch_to(RESULT, job, results),
                **self._compare(results),
                self.variants: gr.update(value=results.display_files, visible=len(results.files) > 1),
                self.status: status_line(1, f"{job.total} steps in {duration(job.seconds)}"),
            }
        update = self.switch_to(PAINTING)
        if job.done:
            text = f"Stopped after step <b>{job.done}</b> of {job.total}. The mask is still there."
            update[self.status] = status_line(job.done / job.total, text)
        return update

    # --- recipes ---------------------------------------------------------------------------------------------

    def apply_recipe(
        self, recipe: Mapping[str, Any], info: ModelInfo, path: str, source: SourceImage | None
    ) -> tuple[InpaintRequest, Update, list[str]]:
        """All controls and the mask as a saved picture says; where no picture is open, it is that one, too."""
        request, notes = from_recipe(recipe, info)
        update = {} if source else self._load(source := SourceImage.open(path))
        mask = mask_from(recipe)
        if mask is None or mask.shape not in (source.size[::-1], source.display_size[::-1]):
            notes.append("its mask is missing, or does not fit the picture: paint one")
        else:  # older recipes have it as the painter had it
            update |= self._edit(source, enlarge(mask, source.size))
        update |= self.show_request(request, info)
        if recipe.get("source") != source_of(source.image()):
            text = "It was made from another picture: open that one for the same result."
            update[self.status] = status_line(0, f"Recipe loaded: seed {request.seeds[0]}. {text}")
        else:
            update.pop(self.status, None)
        return request, update, notes
