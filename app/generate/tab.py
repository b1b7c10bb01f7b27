"""The Generate tab: pick classes, watch the pictures come out of the noise, look through the steps, keep the result."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from time import perf_counter
from typing import Any

import gradio as gr

from app.common import recipes
from app.common.controls import (
    NO_CLASS,
    check_offered,
    class_picker,
    follow_model,
    from_request,
    room_for,
    run_controls,
    sampling_controls,
    seed_picker,
    to_request,
)
from app.common.errors import plain_errors, warn
from app.common.images import served
from app.common.stage import WAITING, caption, describe_step, duration, status_line
from app.common.studio import CHECK, GLUE, GPU, Studio, Update, on_end
from app.engine.engine import ModelInfo
from app.engine.frames import PREVIEW_SECONDS, Frame
from app.engine.request import MAX_IMAGES, MAX_SEED, Request, check_whole
from app.generate.kept_steps import VIEWS, Trajectory, View
from app.generate.presets import Presets

READY = status_line(0, "Pick a class and press Generate (Ctrl + Enter).")
AGAIN = "Press Generate for the same picture again."
EMPTY = '<div class="stage empty"><p>The pictures come here, out of the noise.</p></div>'


# What a click on Generate does at once in the browser, while the run's first step is on its way
STARTED = f"""() => [
  {{__type__: "update", visible: false}}, {{__type__: "update", visible: true}}, {json.dumps(WAITING)},
  {{__type__: "update", interactive: false}}, {{__type__: "update", interactive: false}},
]"""


class Generate:
    """The tab's components, and what happens between them. Methods that return an Update touch only what is in it."""

    def __init__(self, studio: Studio):
        self.engine, self.pick = studio.engine, studio.pick
        with gr.Row(equal_height=False, elem_classes="tab"):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                self._lay_out_controls(studio)
            with gr.Column(min_width=500, elem_classes="result"):
                self._lay_out_result()
        self.trajectory, self.looked_at = gr.State(), gr.State(View())
        self.picture = gr.State()  # the file of the picture chosen in the gallery
        self.offered = follow_model(studio, self.classes)
        self.settings = [self.classes, self.count, self.seed, *self.sampling.inputs]
        self._wire(studio)
        studio.actions, studio.picture = self.actions, self.picture

    def _lay_out_controls(self, studio: Studio) -> None:
        first = next(iter(studio.info.labels))
        self.classes = class_picker(studio.info, [first], MAX_IMAGES, "generate")
        with gr.Row():
            self.any_class = gr.Button("Random class", size="sm", elem_id="generate-any-class")
            self.no_class = gr.Button("No class", size="sm", elem_id="generate-no-class")
        with gr.Row():
            self.count = gr.Slider(
                1, MAX_IMAGES, 4, step=1, label="Images", buttons=[], min_width=120, elem_id="generate-count"
            )
            self.seed = seed_picker("generate")
        self.presets = Presets(studio.engine)
        self.sampling = sampling_controls(studio.info, "generate", self.classes)
        self.start, self.stop, self.recipe = run_controls("Generate")

    def _lay_out_result(self) -> None:
        self.status = gr.HTML(READY, elem_id="generate-status")
        self.stage = gr.HTML(EMPTY, elem_id="generate-stage", elem_classes="stage-box")
        self.gallery = gr.Gallery(
            format="png",
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
                1, 2, 2, step=1, label="Step", buttons=[], interactive=False, min_width=260, elem_id="generate-step"
            )
            self.view = gr.Radio(
                [(name, key) for key, name in VIEWS.items()],
                value="x_0",
                show_label=False,
                container=False,
                scale=0,
                min_width=290,
                elem_id="generate-view",
            )
        with gr.Row(elem_classes="actions") as self.actions:
            self.again = gr.Button(
                "Use this seed again", size="sm", interactive=False, scale=0, min_width=220, elem_id="generate-again"
            )

    def _wire(self, studio: Studio) -> None:
        model, trajectory = studio.model, self.trajectory
        result = [self.stage, self.gallery, self.view]
        page = [self.start, self.stop, self.status, *result, self.step, self.again, self.picture]
        self.any_class.click(self.random_class, model, self.classes, **GLUE)
        self.no_class.click(lambda: [NO_CLASS], outputs=self.classes, **GLUE)
        gr.on([self.classes.change, self.count.release], room_for, [self.classes, self.count], self.count, **GLUE)

        at_once = [self.start, self.stop, self.status, self.step, self.again]
        self.start.click(None, outputs=at_once, js=STARTED, **GLUE)  # first: behind the run it waits for its end
        run = self.start.click(
            self.run,
            [self.looked_at, self.offered, model, *self.settings],
            [*page, trajectory],
            show_progress="hidden",
            api_visibility="private",
            **GPU,
        )
        on_end(run, self.finish, trajectory, page)
        self.stop.click(None, cancels=[run])

        self.presets.wire(studio, self.settings, self.sampling, run)

        scrubbed = {"outputs": [self.stage, self.gallery], "trigger_mode": "always_last"} | GLUE
        self.step.input(self.scrub, [trajectory, self.step], **scrubbed)
        self.view.input(self.look, [self.looked_at, trajectory, self.step, self.view], **scrubbed)
        self.gallery.select(self.select, trajectory, page, **GLUE)
        self.again.click(self.use_again, [trajectory, self.picture], [self.classes, self.count, self.seed], **GLUE)
        loaded = [self.recipe, model, *self.settings, self.status, self.offered]
        self.recipe.upload(self.load, [self.recipe, model], loaded, **CHECK)
        gr.api(self.generate, api_name="generate", **GPU)

    def random_class(self, model: str) -> list[int]:
        """Any one class."""
        return [random.choice(list(self.engine.describe(model).labels))]

    def run(self, view: View, offered: ModelInfo, *settings: Any) -> Iterator[Update]:
        """Frame by frame; stopped by being closed, as Gradio can from the first update on, which waits for nothing."""
        # A picture of before may have been clicked while this run waited.
        yield {self.status: WAITING, self.picture: None, self.again: gr.update(interactive=False)}
        with plain_errors():
            request = to_request(*settings)
            info = self.engine.describe(request.model)
            check_offered(offered, info)
            trajectory = Trajectory(request.for_labels(info.labels), info.labels, view)
        shown = 0.0
        with plain_errors(), closing(self.engine.run((request,))) as frames:
            for frame in frames:
                preview = trajectory.add(frame)
                if preview and not frame.images and perf_counter() - shown >= PREVIEW_SECONDS:
                    yield {
                        self.trajectory: trajectory,
                        self.stage: gr.update(value=preview, visible=True),
                        self.gallery: gr.update(visible=False),
                        self.status: status_line(frame.index / frame.total, describe_step(frame)),
                    }
                    shown = perf_counter()
        with plain_errors():  # the engine is free again: others do not wait until the files are written
            trajectory.files = self._publish(request, frame, info)
        view.key = "x_0"  # of which the pictures are the last step
        files = list(zip(trajectory.files, trajectory.captions, strict=True))
        yield {
            self.trajectory: trajectory,
            self.view: view.key,
            self.stage: gr.update(visible=False),
            self.gallery: gr.update(value=files, columns=trajectory.columns, rows=trajectory.rows, visible=True),
        }

    def finish(self, trajectory: Trajectory | None) -> Update:
        """Ended, stopped or failed: the page is ready again, and what there is can be looked through."""
        ready = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False), self.status: READY}
        if trajectory and trajectory.kept:
            ready[self.status] = status_line(trajectory.seen / trajectory.total, summary(trajectory))
            ready[self.step] = gr.update(
                maximum=trajectory.total, value=trajectory.seen, interactive=trajectory.total > 1
            )
        if trajectory and trajectory.files:
            ready |= self._choose(trajectory, 0)
        return ready

    def scrub(self, trajectory: Trajectory | None, step: int) -> Update:
        """Show a step of the run; the last one is the result itself."""
        if trajectory is None or not trajectory.kept:
            return gr.skip()
        result = bool(trajectory.files) and step >= trajectory.total and trajectory.view.key == "x_0"
        stage = gr.update(visible=False) if result else gr.update(value=trajectory.at(step - 1), visible=True)
        return {self.stage: stage, self.gallery: gr.update(visible=result)}

    def look(self, view: View, trajectory: Trajectory | None, step: int, chosen: str) -> Update:
        """Switch between predicted image and noisy state, also while a run waits or goes on: it reads `view`."""
        view.key = chosen
        return gr.skip() if trajectory is None else self.scrub(trajectory, min(step, trajectory.seen))

    def select(self, trajectory: Trajectory, event: gr.SelectData) -> Update:
        """A picture of the gallery was clicked."""
        return self._choose(trajectory, event.index)

    def use_again(self, trajectory: Trajectory, picture: str) -> tuple[list[int], int, int]:
        """The chosen picture's class and seed, for one image."""
        if picture not in trajectory.files:  # another run has begun
            return gr.skip(), gr.skip(), gr.skip()
        index = trajectory.files.index(picture)
        label = trajectory.request.class_labels[index]
        return [NO_CLASS if label is None else label], 1, trajectory.request.seeds[index]

    def load(self, path: str, model: str) -> list[Any]:
        """Set all controls from a saved picture."""
        with plain_errors():
            recipe = recipes.read(path)
            info = self.engine.describe(self.engine.find(recipe.get("model"), model))
        request, notes = recipes.to_request(recipe, info)
        warn(notes)
        text = f"Recipe loaded: seed {request.seeds[0]}" + (", as far as it goes." if notes else f". {AGAIN}")
        return [None, self.pick(info.name), *from_request(request, info), status_line(0, text), info]

    def generate(
        self,
        class_label: int | str | None = None,
        seed: int = 0,
        num_images: int = 1,
        num_inference_steps: int = 25,
        sampler: str = "dpm++",
        guidance_scale: float = 3.8,
        guidance_power: float = 4.0,
        skip_unconditional: bool = True,
        model: str | None = None,
    ) -> list[gr.FileData]:
        """Draw pictures of one class, by index or name (None: no class). Picture i has the seed `seed` + i."""
        with plain_errors():
            check_whole("number of images", num_images, 1, MAX_IMAGES)
            check_whole("seed", seed, 0, MAX_SEED)
            name = self.engine.default if model is None else model
            info = self.engine.describe(name)
            label = NO_CLASS if class_label in (None, "") else self.engine.class_index(name, class_label)
            sampling = (sampler, num_inference_steps, guidance_scale, guidance_power, skip_unconditional)
            request = to_request(name, [label], num_images, seed, *sampling)
            for frame in self.engine.run((request,)):
                last = frame
            return served(self._publish(request, last, info))

    def _choose(self, trajectory: Trajectory, index: int) -> Update:
        label = f"Use seed {trajectory.request.seeds[index]} again"
        return {self.picture: trajectory.files[index], self.again: gr.update(value=label, interactive=True)}

    def _publish(self, request: Request, frame: Frame, info: ModelInfo) -> list[str]:
        """The pictures of the last frame as PNG files with their recipes. `info`: of the weights that drew them."""
        names = [
            f"{caption(label, info.labels)}-{seed}"
            for label, seed in zip(request.class_labels, request.seeds, strict=True)
        ]
        return [
            recipes.publish_picture(image, names[i], self.gallery, recipes.of_image(request, i, info))
            for i, image in enumerate(frame.images)
        ]


def summary(trajectory: Trajectory) -> str:
    """How a run ended."""
    if not trajectory.files:
        return f"Stopped after step <b>{trajectory.seen}</b> of {trajectory.total}."
    saved = f" · {trajectory.skipped} unconditional passes saved" if trajectory.skipped else ""
    return f"{trajectory.total} steps in {duration(trajectory.seconds)}{saved}"
