"""The Generate tab: pick classes, watch the pictures come out of the noise, look through the steps, save the result."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from app.common import recipes
from app.common.classes.mixing import mix_controls
from app.common.classes.picker import bind_to_model, check_classes, class_picker, room_for
from app.common.classes.pictures import PICK, ClassPictures, picked_classes, welcome
from app.common.controls import (
    RequestControls,
    control,
    keep_seed_switch,
    seed_picker,
    show_guidance_curve,
)
from app.common.history import History
from app.common.live import Latest, LiveTab
from app.common.presets import TimedPresets
from app.common.stage import WAITING, describe_step, duration, pictures, status_line
from app.common.studio import GLUE, GPU, Studio, Update
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Label, Request
from app.engine.settings import MAX_IMAGES, NUM_IMAGES
from app.generate.endpoint import make_endpoint
from app.generate.presets import describe_preset, presets_for
from app.generate.step_history import PREVIEWS, Look, PreviewChoice, StepHistory

# What a click on Generate changes at once in the browser, while the run's first step is on its way
STARTED = f"""() => [
  {{__type__: "update", visible: false}}, {{__type__: "update", visible: true}}, {json.dumps(WAITING)},
  {{__type__: "update", interactive: false}}, {{__type__: "update", interactive: false}},
]"""


class Generate(LiveTab):
    """The tab's components, and what happens between them."""

    verb, kind = "Generate", "generate"
    ready = status_line(0, "Pick a class and press Generate<kbd> (Ctrl + Enter)</kbd>.")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.lay_out_columns()
        self.choice = gr.State(PreviewChoice())
        self.picture = gr.State()  # the file of the picture chosen in the gallery
        pickers = self.controls.classes, self.controls.mix.other
        self.picker_model = bind_to_model(studio, *pickers, tab=self.tab)
        self._wire(studio)
        studio.actions, studio.picture = self.actions, self.picture
        studio.show_request = self.open_request
        studio.shown = [self.status, self.picker_model, self.presets.model, *self.controls.outputs]

    def lay_out_controls(self) -> None:
        info = self.studio.info
        start = Request.first(info)
        classes = class_picker(info, [next(iter(info.labels))], MAX_IMAGES, "generate")
        self.pictures = ClassPictures(self.studio, self.fold("What each looks like", "kinds"), self.tab)
        with gr.Row():
            self.any_class = gr.Button("Random class", size="sm", elem_id="generate-any-class")
            self.no_class = gr.Button("No class", size="sm", elem_id="generate-no-class")
        mix = mix_controls(info, "generate")
        with gr.Row():
            count = control(NUM_IMAGES, 4, "generate")
            keep_seed = keep_seed_switch("generate")
            seed, self.thrown = seed_picker("generate", keep_seed)
        self.presets = TimedPresets(self.studio, start, presets_for, describe_preset)
        settings = self.lay_out_sampling(start, "distilled", "skip_unconditional")
        with self.folds[-1]:
            curve = gr.HTML(elem_id="generate-curve")
        self.controls = RequestControls(Request, classes, count, seed, settings, keep_seed, mix)
        show_guidance_curve(self.controls, curve)
        self.lay_out_run()
        self.lay_out_recipe()
        self.lay_out_settings()

    def lay_out_result(self) -> None:
        self.lay_out_status()
        first = welcome(self.engine, self.studio.info)
        self.stage = gr.HTML(first, js_on_load=PICK, elem_id="generate-stage", elem_classes="stage-box")
        self.gallery = gr.Gallery(
            format="png",
            label="Pictures",
            show_label=False,
            visible=False,
            interactive=False,
            buttons=["download", "download_all", "fullscreen"],
            object_fit="contain",
            elem_id="generate-gallery",
            elem_classes="gallery",
        )
        with gr.Row(elem_classes="scrub", equal_height=True):
            self.step = gr.Slider(
                *(1, 2, 2),
                step=1,
                label="Step",
                info="Look at any step of the run again.",
                buttons=[],
                interactive=False,
                min_width=260,
                elem_id="generate-step",
            )
            self.preview_kind = gr.Radio(
                [(name, key) for key, name in PREVIEWS.items()],
                value="x_0",
                label="Preview",
                show_label=False,
                container=False,
                scale=0,
                min_width=350,
                elem_id="generate-view",
            )
        with gr.Row(elem_classes="actions") as self.actions:
            self.again = gr.Button(
                "Use this seed again", size="sm", interactive=False, scale=0, min_width=220, elem_id="generate-again"
            )
        self.history = History(self.fold("What you made here", "made"), self.tab)

    def _wire(self, studio: Studio) -> None:
        model, job, classes, count = studio.model, self.job, self.controls.classes, self.controls.count
        page = [self.stage, self.gallery, self.preview_kind, self.step, self.again, self.picture]
        picked = self.any_class.click(self.random_class, model, classes, **GLUE)
        dropped = self.no_class.click(lambda: [None], outputs=classes, **GLUE)
        pointed = self.pictures.wire(studio, classes)
        begun = self.stage.select(picked_classes, outputs=classes, **GLUE)
        begun.then(None, js="() => document.querySelector('#generate-start').click()", **GLUE)
        studio.model_opened.success(self.welcome, [model, job], self.stage, **GLUE)
        gr.on([classes.change, count.release], room_for, [classes, count], count, **GLUE)

        at_once = [self.start, self.stop, self.status, self.step, self.again]
        self.start.click(None, outputs=at_once, js=STARTED, **GLUE)  # first: behind the run it waits for its end
        asked = [self.choice, self.picker_model, model, *self.controls.inputs]
        run = self.wire_run(asked, page, check_first=False)
        live = self.wire_live(asked, page)
        self.live.look_at(picked.then, dropped.then, pointed.then, self.thrown.then)

        scrubbed = {"outputs": [self.stage, self.gallery], "trigger_mode": "always_last"} | GLUE
        self.step.input(self.scrub, [job, self.step], **scrubbed)
        self.preview_kind.input(self.choose_preview, [self.choice, job, self.step, self.preview_kind], **scrubbed)
        self.gallery.select(self.select, job, page, **GLUE)
        self.again.click(self.use_again, [job, self.picture], self.controls.outputs, **GLUE)
        self.wire_recipe([self.picker_model, self.presets.model, *self.controls.outputs])
        self.presets.wire(studio, self.controls, run, self.wire_settings([self.presets.model]))
        distilled, settings = self.controls.settings["distilled"], [*self.controls.settings.values()]
        distilled.input(self.choose_weights, [distilled, model], settings, **GLUE)
        self.wire_history(run, live)
        gr.api(make_endpoint(self.engine, self.gallery), api_name="generate", **GPU)

    def random_class(self, model: str) -> list[int]:
        """Any one class."""
        return [random.choice(list(self.engine.describe(model).labels))]

    def show_request(self, request: Request, info: ModelInfo, class_labels: Sequence[Label] = ()) -> Update:
        return {self.presets.model: info} | super().show_request(request, info, class_labels)

    def choose_weights(self, distilled: bool, model: str) -> Update:
        """The settings that suit the weights: of the preset that draws with them, or of the balanced one."""
        return self.presets.apply("Fast" if distilled else "Balanced", model)

    def welcome(self, model: str, job: StepHistory | None) -> Any:
        """Another model was chosen: what it draws, unless something was drawn."""
        return gr.skip() if job else welcome(self.engine, self.engine.describe(model))

    # --- a run -----------------------------------------------------------------------------------------------

    def run(self, *asked: Any) -> Iterator[Update]:
        """Asks when its turn has come: a check before the queue would delay the first preview by a round trip."""
        values, seed = self.with_seed(asked)
        yield seed | self.without_picture() | {self.status: WAITING}
        yield from self.updates(partial(self.make_job, *values))

    def without_picture(self) -> Update:
        """No picture is chosen: one of before may have been clicked while this run waited."""
        return {self.picture: None, self.again: gr.update(interactive=False)}

    def make_job(self, choice: PreviewChoice, picker_model: ModelInfo, *settings: Any) -> StepHistory:
        """The run of these settings."""
        request = self.controls.request(*settings)
        info = self.engine.describe(request.model)
        check_classes(picker_model, info)
        return StepHistory(request.for_labels(info.labels), info, choice)

    def files_of(self, job: StepHistory) -> Sequence[str]:
        return job.files

    def preview(self, job: StepHistory, step: Frame) -> Update:
        """The pictures so far."""
        return {
            self.job: job,
            self.stage: gr.update(value=job.latest, visible=True),
            self.gallery: gr.update(visible=False),
            self.status: status_line(step.index / step.total, describe_step(step)),
        }

    def result(self, job: StepHistory, step: Frame) -> Update:
        """The finished pictures, in place of the preview of the last step."""
        job.publish(step.images, self.gallery)
        job.choice.key = "x_0"  # of which the finished pictures are the last step
        files = list(zip(job.files, job.captions, strict=True))
        return {
            self.job: job,
            self.preview_kind: job.choice.key,
            self.stage: gr.update(visible=False),
            self.gallery: gr.update(value=files, columns=job.columns, rows=job.rows, visible=True),
        }

    def ended(self, job: StepHistory) -> Update:
        """What there is can be looked through."""
        update = {}
        if job.stored:
            update[self.status] = status_line(job.done / job.total, summary(job))
            update[self.step] = gr.update(maximum=job.total, value=job.done, interactive=job.total > 1)
        return update | (self._select(job, 0) if job.files else {})

    # --- drawn live ------------------------------------------------------------------------------------------

    def look_job(self, job: StepHistory) -> Look:
        """Few steps of the pictures for which there is time."""
        return Look(self.look_of(job.request), job.info)

    def look(self, job: Look, step: Frame) -> Update:
        """On the stage alone."""
        text = describe_step(step)
        if step.images:
            text = f"A quick look: {job.total} steps in {duration(job.seconds)}. Press Generate to draw it with all."
        return self.without_picture() | {
            self.job: None,
            self.stage: gr.update(value=pictures(step.images or step.x_0, job.captions), visible=True),
            self.gallery: gr.update(visible=False),
            self.step: gr.update(interactive=False),
            self.status: status_line(job.done / job.total, text),
        }

    def draw_whole(self, job: StepHistory, latest: Latest, count: int) -> Iterator[Update]:
        """As if Generate were pressed, but of the same seed."""
        going = {self.start: gr.update(visible=False), self.stop: gr.update(visible=True), self.status: WAITING}
        yield self.without_picture() | going

        def end(job: StepHistory, step: Frame) -> Update:
            return self.result(job, step) | self.finish(job)  # of two that come at once the page may miss the first

        yield from self.updates(lambda: job, lambda: latest.overtaken(count), end=end)
        latest.looked = False
        if not job.files:  # overtaken
            yield self.finish(job)

    # --- looking through what was made -----------------------------------------------------------------------

    def scrub(self, job: StepHistory | None, step: int) -> Update:
        """Show a step of the run; the last one is the result itself."""
        if job is None or not job.stored:
            return gr.skip()
        result = bool(job.files) and step >= job.total and job.choice.key == "x_0"
        stage = gr.update(visible=False) if result else gr.update(value=job.at(step - 1), visible=True)
        return {self.stage: stage, self.gallery: gr.update(visible=result)}

    def choose_preview(self, choice: PreviewChoice, job: StepHistory | None, step: int, key: str) -> Update:
        """Switch between predicted image and noisy state, also while a run waits or goes on: it reads `choice`."""
        choice.key = key
        return gr.skip() if job is None else self.scrub(job, min(step, job.done))

    def select(self, job: StepHistory, event: gr.SelectData) -> Update:
        """A picture of the gallery was clicked."""
        return self._select(job, event.index)

    def _select(self, job: StepHistory, index: int) -> Update:
        label = f"Use seed {job.request.seeds[index]} again"
        return {self.picture: job.files[index], self.again: gr.update(value=label, interactive=True)}

    def use_again(self, job: StepHistory, picture: str) -> Update:
        """The chosen picture's class and seed, for one image, and the seed is kept."""
        if picture not in job.files:  # another run has begun
            return gr.skip()
        index, controls = job.files.index(picture), self.controls
        labels = controls.class_updates([job.request.class_labels[index]], job.info)
        return labels | {controls.count: 1, controls.seed: job.request.seeds[index], controls.keep_seed: True}

    # --- recipes ---------------------------------------------------------------------------------------------

    def apply_recipe(self, recipe: Mapping[str, Any], info: ModelInfo, path: str) -> tuple[Request, Update, list[str]]:
        """All controls as a saved picture says."""
        request, notes = recipes.to_request(recipe, info)
        return request, self.show_request(request, info), notes

    def open_request(self, request: Request, info: ModelInfo) -> Update:
        """All controls as a request of another tab says."""
        text = f"Seed {request.seeds[0]}, ready to be drawn: press Generate."
        return {self.status: status_line(0, text)} | self.show_request(request, info)


def summary(job: StepHistory) -> str:
    """How a run ended."""
    if not job.files:
        return f"Stopped after step <b>{job.done}</b> of {job.total}."
    saved = f" · {job.skipped} of them without guidance" if job.skipped else ""
    return f"{job.total} steps in {duration(job.seconds)}{saved}"
