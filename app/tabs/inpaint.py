"""The Inpaint tab: open a picture, paint what is to be repainted, watch it, compare, take a variant and paint on."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from app import recipes
from app.controls import NO_CLASS, class_choices, for_model
from app.engine import MAX_SEED, check_whole
from app.examples import find_examples
from app.images import open_image
from app.inpaint_controls import (
    Controls,
    lay_out_mask_settings,
    lay_out_settings,
    method_choices,
    settings_to_values,
    values_to_settings,
    wire_presets,
)
from app.inpaint_session import Job, Outcome, message, pictures, publish_outcome, publish_results
from app.inpainting import FALLBACK, MAX_VARIANTS, Inpainting, Settings, fingerprint, mask_from, settings_from
from app.painting import PAINT, Easel, editor_value, enlarge, footprint_view, mask_of, open_mask
from app.studio import GLUE, GPU, Studio, Update, clear_errors, clock, progress
from app.tabs.generate import describe
from app.trajectory import STAGE_SIDE
from mdt_core.inpainting import find_method

PAINTING, CELLS, RESULT = "paint", "cells", "result"
VIEWS = [("Paint", PAINTING), ("What will be repainted", CELLS), ("Result", RESULT)]
START = progress(0, "Open a picture, paste one, or take an example.")
READY = progress(0, "Paint over what is to be repainted and press Inpaint (Ctrl + Enter).")
EMPTY = (
    '<div class="stage empty"><p>Drop or paste a picture here, open one, take an example,<br>'
    "or send one from Generate.</p></div>"
)
SCRIPT = Path(__file__).parents[1] / "page" / "paste.js"


class Inpaint:
    """The tab's components, and what happens between them. Methods that return an Update touch only what is in it."""

    def __init__(self, studio: Studio):
        self.engine, self._model, self._tabs = studio.engine, studio.model, studio.tabs
        self.examples = find_examples()
        with gr.Row(equal_height=False, elem_classes="tab"):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                settings = self._lay_out_controls(studio)
            with gr.Column(min_width=500, elem_classes="result", elem_id="inpaint-result"):
                self.controls = Controls(**settings, **self._lay_out_result())
        self.easel, self.job, self.outcome = gr.State(), gr.State(), gr.State()
        with studio.actions:
            self.send = gr.Button(
                "Send to Inpaint", size="sm", interactive=False, scale=0, min_width=160, elem_id="generate-send"
            )
        self._wire(studio)

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
            class_choices(studio.info),
            value=next(iter(studio.info.labels)),
            label="Class (type to filter)",
            elem_id="inpaint-class",
        )
        self.preset, settings = lay_out_settings(studio.info)
        self.start = gr.Button("Inpaint", variant="primary", elem_id="inpaint-start", elem_classes="start")
        self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="inpaint-stop", elem_classes="stop")
        self.recipe = gr.File(
            label="Load recipe: drop a saved picture, or click",
            file_types=[".png"],
            height=38,
            elem_id="inpaint-recipe",
            elem_classes="drop",
        )
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
            brush=gr.Brush(colors=[(f"rgb{PAINT}", 0.6)], color_mode="fixed"),
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
            self.save = gr.DownloadButton("Save PNG", visible=False, min_width=100, elem_id="inpaint-save", **small)
        with gr.Row():
            return lay_out_mask_settings()

    def _wire(self, studio: Studio) -> None:
        model, easel, job, outcome, editor = studio.model, self.easel, self.job, self.outcome, self.editor
        settings = self.controls.all
        views = [
            *(self.view, self.editor, self.stage, self.cells, self.slider, self.variants),
            *(self.invert, self.clear, self.use, self.save),
        ]
        page = [self.start, self.stop, self.status, easel, job, outcome, *views]

        model.change(
            self.offer,
            [model, self.controls.label, self.controls.method],
            [self.controls.label, self.controls.method],
            **GLUE,
        )
        wire_presets(self.preset, self.controls, model, self.engine.describe)
        self.open.upload(self.take_upload, self.open, page, **GLUE)
        self.example.select(self.take_example, outputs=page, **GLUE)
        studio.picture.change(lambda file: gr.update(interactive=bool(file)), studio.picture, self.send, **GLUE)
        self.send.click(self.take_generated, [studio.picture, model], [*page, studio.tabs, self.controls.label], **GLUE)
        self.use.click(self.take_variant, [outcome, easel], page, **GLUE)
        self.recipe.upload(
            self.load, [self.recipe, model, easel], [self.recipe, model, self.preset, *settings, *page], **GLUE
        )

        self.open_mask.upload(self.load_mask, [self.open_mask, easel], page, **GLUE)
        self.invert.click(self.invert_mask, [editor, easel], editor, **GLUE)
        self.clear.click(self.clear_mask, easel, editor, **GLUE)

        seen = [self.view, model, editor, easel, job, outcome, *settings]
        self.view.input(self.look, seen, views, trigger_mode="always_last", **GLUE)
        edges = [self.controls.area, self.controls.grow, self.controls.feather]
        gr.on([edge.change for edge in edges], self.look, seen, views, trigger_mode="always_last", **GLUE)
        self.variants.select(self.choose, outcome, [self.slider, self.save, outcome], **GLUE)

        check = self.start.click(self.begin, [model, editor, easel, *settings], page, **GLUE)
        run = check.success(self.run, job, page, show_progress="hidden", api_visibility="private", **GPU)
        run.then(self.finish, [job, outcome], page, **GLUE)
        self.stop.click(None, cancels=[run])
        gr.api(self.inpaint, api_name="inpaint", **GPU)

    # --- the picture -----------------------------------------------------------------------------------------

    def take_upload(self, path: str) -> Update:
        """A picture was opened, pasted or dropped."""
        with clear_errors():
            return self._take(Easel(open_image(path), Path(path).stem))

    def take_example(self, event: gr.SelectData) -> Update:
        """An example was clicked: the picture and its mask."""
        picture, mask = self.examples[event.index]
        easel = Easel(open_image(picture), picture.stem)
        return self._take(easel, open_mask(mask, easel.size))

    def take_generated(self, path: str | None, model: str) -> Update:
        """The picture chosen on the Generate tab, with its class."""
        with clear_errors():
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
        with clear_errors():
            picture = open_image(outcome.files[outcome.chosen])
        text = progress(0, "This is the picture now: paint on, and press Inpaint (Ctrl + Enter).")
        return self._take(Easel(picture, easel.name)) | {self.status: text}

    def _take(self, easel: Easel, mask: Any = None) -> Update:
        """Put a picture on the easel; a mask is of its own size."""
        display = easel.display()
        painted = mask_of(None, easel.shown) if mask is None else enlarge(mask, easel.shown)
        return {
            self.easel: easel,
            self.outcome: None,
            self.status: READY,
            **self._show(PAINTING),
            self.editor: gr.update(value=editor_value(display, painted), visible=True),
        }

    # --- the mask --------------------------------------------------------------------------------------------

    def load_mask(self, path: str, easel: Easel | None) -> Update:
        """A mask was opened: it takes the place of the painted one."""
        with clear_errors():
            if easel is None:
                raise ValueError("Open the picture first, then its mask.")
            mask = enlarge(open_mask(path, easel.size), easel.shown)
            return {
                **self._show(PAINTING),
                self.editor: gr.update(value=editor_value(easel.display(), mask), visible=True),
            }

    def invert_mask(self, value: dict[str, Any] | None, easel: Easel | None) -> Any:
        """Paint what is not painted."""
        return gr.skip() if easel is None else editor_value(easel.display(), ~mask_of(value, easel.shown))

    def clear_mask(self, easel: Easel | None) -> Any:
        """Paint nothing."""
        return gr.skip() if easel is None else editor_value(easel.display(), mask_of(None, easel.shown))

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
        """Switch the view, or draw it again after a change of the mask's edge."""
        if easel is None:
            return {self.view: PAINTING}
        update = self._show(view, job, outcome)
        if view == CELLS:
            update[self.cells] = gr.update(value=self._draw_cells(model, value, easel, values), visible=True)
        elif view == RESULT and not outcome and not (job and job.running):
            hint = "There is no result yet: press Inpaint."
            update[self.stage] = gr.update(value=message(hint), visible=True)
        return update

    def _show(self, view: str, job: Job | None = None, outcome: Outcome | None = None) -> Update:
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

    def _draw_cells(self, model: str, value: dict[str, Any] | None, easel: Easel, values: tuple) -> str:
        """What will be repainted, or the sentence that says why nothing would be."""
        info = self.engine.describe(model)
        try:
            job = Job(values_to_settings(model, *values), easel, mask_of(value, easel.shown))
            canvas = job.request().small_canvas(info.image_size, info.cells, STAGE_SIDE)
        except ValueError as error:
            return message(str(error)[:1].upper() + str(error)[1:] + ".")
        legend = "teal: new, fading in along the edge · amber: made anew by the model, but not pasted"
        return pictures([footprint_view(canvas, info.cells)], [legend])

    def choose(self, outcome: Outcome, event: gr.SelectData) -> Update:
        """A variant was clicked."""
        outcome.chosen = event.index
        return {self.outcome: outcome, **self._compare(outcome)}

    def _compare(self, outcome: Outcome) -> Update:
        """The chosen variant next to what it was made from."""
        return {
            self.slider: gr.update(value=(outcome.before, outcome.shown[outcome.chosen])),
            self.save: gr.update(value=outcome.files[outcome.chosen]),
        }

    # --- a run -----------------------------------------------------------------------------------------------

    def begin(self, model: str, value: dict[str, Any] | None, easel: Easel | None, *values: Any) -> Update:
        """Check picture, mask and settings before the run joins the queue."""
        with clear_errors():
            if easel is None:
                raise ValueError("There is no picture yet: open or paste one, or take an example.")
            job = Job(values_to_settings(model, *values), easel, mask_of(value, easel.shown))
            job.request().check(self.engine.describe(model))
        captions = job.captions()
        return {
            self.job: job,
            self.status: progress(0, "Waiting for the model …"),
            self.start: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            **self._show(RESULT, job),
            self.stage: gr.update(value=pictures([easel.display()] * len(captions), captions), visible=True),
        }

    def run(self, job: Job) -> Iterator[Update]:
        """Frame by frame; stopped by being closed."""
        start = perf_counter()
        request, captions = job.request(), job.captions()
        with clear_errors(), closing(self.engine.run((request,))) as frames:
            for frame in frames:
                job.seen, job.total, job.seconds = frame.index + 1, frame.total, perf_counter() - start
                if frame.images:
                    info = self.engine.describe(request.model)
                    job.outcome = publish_outcome(job, frame.images, info, self.slider)
                elif frame.x_0:
                    yield {
                        self.stage: pictures(frame.x_0, captions),
                        self.status: progress(frame.index / frame.total, describe(frame)),
                    }
        yield {self.outcome: job.outcome}

    def finish(self, job: Job | None, outcome: Outcome | None) -> Update:
        """Ended, stopped or failed: the page is ready again, and the painted mask is still there."""
        update = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False), self.status: READY}
        if job is None:
            return update
        job.running = False
        if job.outcome is None:
            if job.seen:
                text = f"Stopped after step <b>{job.seen}</b> of {job.total}. The mask is still there."
                update[self.status] = progress(job.seen / job.total, text)
            return update | self._show(PAINTING)
        variants = list(zip(job.outcome.shown, job.outcome.captions, strict=True))
        shown = self._show(RESULT, job, outcome)
        compared = self._compare(job.outcome)
        return {
            **update,
            **shown,
            self.slider: gr.update(value=compared[self.slider]["value"], visible=True),
            self.save: gr.update(value=compared[self.save]["value"], visible=True),
            self.variants: gr.update(value=variants, visible=len(variants) > 1),
            self.status: progress(1, f"{job.total} steps in {clock(job.seconds)}"),
        }

    # --- recipes, models, clients ----------------------------------------------------------------------------

    def load(self, path: str, model: str, easel: Easel | None) -> Update:
        """Set all controls and the mask from a saved picture; without a picture on the easel it takes its place."""
        with clear_errors():
            recipe = recipes.read(path, kind="inpaint")
            name = recipe.get("model")
            info = self.engine.describe(name if name in self.engine.models else model)
            settings, notes = settings_from(recipe, info)
            update = {} if easel else self._take(easel := Easel(open_image(path), Path(path).stem))
        mask = mask_from(recipe)
        if mask is None or mask.shape != easel.shown[::-1]:
            notes.append("its mask does not fit the picture: paint one")
        else:
            update |= self._show(PAINTING)
            update[self.editor] = gr.update(value=editor_value(easel.display(), mask), visible=True)
        for note in notes:
            gr.Warning(f"Recipe: {note}.")
        same = recipe.get("source") == fingerprint(easel.picture())
        text = f"Recipe loaded: seed {settings.seeds[0]}. " + (
            "Press Inpaint for the same picture again."
            if same
            else "It was made from another picture: open that one for the same result."
        )
        values = zip(self.controls.all, settings_to_values(settings, info), strict=True)
        return {
            **update,
            self.recipe: None,
            self._model: info.name,
            self.preset: None,
            self.status: progress(0, text),
            **dict(values),
        }

    def offer(self, model: str, label: int, method: str) -> Update:
        """Another model was chosen: its classes, and the methods that it can do."""
        info = self.engine.describe(model)
        update, choices = for_model(info, [label]), method_choices(info)
        update["value"] = update["value"][0]
        kept = method if method in dict(choices).values() else FALLBACK
        return {self.controls.label: update, self.controls.method: gr.update(choices=choices, value=kept)}

    def inpaint(
        self,
        image: gr.FileData,
        mask: gr.FileData,
        class_label: int | str | None = None,
        seed: int = 0,
        num_variants: int = 1,
        method: str = "mdt",
        num_inference_steps: int = 25,
        sampler: str | None = None,
        strength: float = 1.0,
        guidance_scale: float = 3.8,
        guidance_power: float = 4.0,
        masked_content: str = "fill",
        area: str = "whole",
        grow: int = 8,
        feather: int = 4,
        model: str | None = None,
    ) -> list[gr.FileData]:
        """Repaint a picture where the mask (of its size) is white. Variant i has the seed `seed` + i."""
        with clear_errors():
            check_whole("number of variants", num_variants, 1, MAX_VARIANTS)
            check_whole("seed", seed, 0, MAX_SEED)
            name = self.engine.default if model is None else model
            info = self.engine.describe(name)
            settings = Settings(
                model=name,
                class_label=None if class_label in (None, "") else self.engine.class_index(name, class_label),
                seeds=tuple((seed + i) % (MAX_SEED + 1) for i in range(num_variants)),
                method=method,
                sampler=sampler or find_method(method).sampler,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                guidance_power=guidance_power,
                strength=strength,
                masked_content=masked_content,
                area=area,
                grow=grow,
                feather=feather,
            )
            picture = open_image(uploaded(image))
            request = Inpainting(settings, picture, open_mask(uploaded(mask), picture.size))
            for frame in self.engine.run((request,)):
                last = frame
        files = publish_results(request, last.images, info, "inpainted", request.mask, self.slider)
        return [gr.FileData(path=path) for path in files]


def uploaded(file: Any) -> str:
    """The path of a file that a client sent. ValueError for anything else: clients must not name the server's files."""
    path = file.get("path") if isinstance(file, Mapping) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise ValueError("Image and mask have to be sent as files: handle_file(path).")
    return path
