"""The Walk tab: a film from one class to another, from one seed to another, or both."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.classes.picker import bind_to_model, check_classes, find_labels
from app.common.controls import seed_picker, setting_controls, setting_update
from app.common.images import publish, uri
from app.common.recipes import with_settings
from app.common.run_tab import Job
from app.common.settings_tab import SettingsTab
from app.common.stage import caption, duration, figure, image, message, pictures, status_line
from app.common.studio import Studio, Update
from app.engine.frames import Frame
from app.engine.model_info import ModelInfo
from app.engine.request import Label
from app.walk.request import WalkRequest, from_recipe, to_recipe
from mdt_core.pipeline.recipe import save_picture


class WalkJob(Job):
    """A walk and its frames so far, which are what is counted."""

    def __init__(self, request: WalkRequest):
        super().__init__(request.parts(), total=request.num_frames)
        self.request, self.frames = request, []
        self.file = ""  # of the film, which then holds the frames

    def start(self, info: ModelInfo) -> None:
        """Its turn has come. `info`: of the weights that draw it."""
        self.info, self.start_time = info, perf_counter()

    def add(self, step: Frame) -> bool:
        """Keep the frames of a batch when they are finished."""
        self.frames += step.images or []
        self.done, self.seconds = len(self.frames), perf_counter() - self.start_time
        return bool(step.x_0) and not step.images


ENDS = {"from": "Where the film begins.", "to": "Where the film ends, and turns back."}


class Walk(SettingsTab):
    """The tab's components, and what happens between them."""

    verb, makes, kind = "Walk", "film", "walk"
    ready = status_line(0, "Choose where the walk begins and ends, and press Walk<kbd> (Ctrl + Enter)</kbd>.")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.lay_out_columns()
        self.picker_model = bind_to_model(studio, *self.classes, tab=self.tab)
        asked = [*self.classes, *self.seeds, *self.settings.values()]
        self.wire_run([self.picker_model, studio.model, *asked], [self.stage, self.save])
        self.wire_recipe([self.picker_model, *asked])
        self.wire_settings()

    def lay_out_controls(self) -> None:
        info = self.studio.info
        first = WalkRequest.first(info)
        self.classes, self.seeds = [], []
        for (end, words), label in zip(ENDS.items(), first.class_labels, strict=True):
            with gr.Row():
                picker = ClassDropdown(
                    class_choices(info.labels),
                    value=label,
                    label=end.capitalize(),
                    info=words,
                    min_width=180,
                    elem_id=f"walk-{end}-class",
                )
                self.classes.append(picker)
                self.seeds.append(seed_picker(f"walk-{end}")[0])
        length = setting_controls(first, "walk", "num_frames", "seconds")
        self.settings = self.lay_out_sampling(first) | length
        self.lay_out_run()
        self.lay_out_recipe()
        self.lay_out_settings()

    def lay_out_result(self) -> None:
        self.lay_out_status()
        self.stage = gr.HTML(
            message("The film comes here: one picture becomes another, and comes back."), elem_id="walk-stage"
        )
        self.save = gr.DownloadButton("Save as WebP", size="sm", visible=False, elem_id="walk-save")

    # --- a run -----------------------------------------------------------------------------------------------

    def make_job(self, picker_model: ModelInfo, model: str, *asked: Any) -> WalkJob:
        """The walk of these settings."""
        check_classes(picker_model, self.engine.describe(model))
        labels, seeds, settings = asked[:2], asked[2:4], asked[4:]
        chosen = dict(zip(self.settings, settings, strict=True))
        job = WalkJob(WalkRequest(model, tuple(labels), tuple(seeds), **chosen))
        self.engine.check_time(job.requests)
        return job

    def started(self, job: WalkJob) -> Update:
        """Nothing is to be seen of it."""
        job.start(self.engine.describe(job.request.model))
        return {}

    def preview(self, job: WalkJob, step: Frame) -> Update:
        """The frames that are being drawn, and how long it will take if the others cost what these did."""
        share = (job.done + len(step.x_0) * (step.index + 1) / step.total) / job.total
        names = [f"frame {job.done + i + 1}" for i in range(len(step.x_0))]
        left = duration(job.seconds * (1 - share) / share)
        text = f"<b>{job.done}</b> of {job.total} frames, step {step.index + 1} of {step.total} · {left} left"
        return {self.stage: pictures(step.x_0, names), self.status: status_line(share, text)}

    def result(self, job: WalkJob, step: Frame | None) -> Update:
        """The film of the frames that there are."""
        ends = [
            f"{caption(label, job.info.labels)}-{seed}"
            for label, seed in zip(job.request.class_labels, job.request.seeds, strict=True)
        ]
        if not job.file:
            data = film(job.frames, job.request.seconds / (job.total - 1), to_recipe(job.request, job.info))
            job.file, job.frames = publish(data, "-to-".join(ends), self.save, ".webp"), []
        film_of = f"Film from {ends[0]} to {ends[1]}, and back"
        return {
            self.stage: f'<div class="stage">{figure(image(uri(job.file), film_of), film_of)}</div>',
            self.save: gr.update(value=job.file, visible=True),
        }

    def ended(self, job: WalkJob) -> Update:
        """A walk that was stopped leaves a shorter film."""
        if job.done == job.total:
            return {self.status: status_line(1, f"{job.total} frames in {duration(job.seconds)}")}
        text = f"Stopped after {job.done} of {job.total} frames."
        return {self.status: status_line(job.done / job.total, text)} | (self.result(job, None) if job.done else {})

    def apply_recipe(
        self, recipe: Mapping[str, Any], info: ModelInfo, path: str
    ) -> tuple[WalkRequest, Update, list[str]]:
        """All controls as a saved film says."""
        request, notes = from_recipe(recipe, info)
        return request, self.show_request(request, info), notes

    # --- settings that the browser keeps, or a link names ------------------------------------------------------

    class_keys = tuple(f"{end}_class" for end in ENDS)

    @property
    def by_name(self) -> dict[str, Component]:
        seeds = (f"{end}_seed" for end in ENDS)
        return dict(zip((*self.class_keys, *seeds), (*self.classes, *self.seeds), strict=True)) | self.settings

    def restore(self, saved: Mapping[str, Any], info: ModelInfo) -> tuple[Update, list[str]]:
        first, notes = WalkRequest.first(info), []
        own = {key: getattr(first, key) for key in first.settings} | saved
        labels, requests = [], []
        for end, label in zip(ENDS, first.class_labels, strict=True):
            labels += (find_labels(saved.get(f"{end}_class", label), info, notes) or [label])[:1]
            one = replace(first, class_labels=(label,), seeds=(0,))
            requests.append(with_settings(one, own | {"seed": saved.get(f"{end}_seed", 0)}, notes))
        seeds = tuple(request.seeds[0] for request in requests)
        request = replace(requests[0], class_labels=tuple(labels), seeds=seeds)
        return self.show_request(request, info), [*dict.fromkeys(notes)]

    def show_request(self, request: WalkRequest, info: ModelInfo, class_labels: Sequence[Label] = ()) -> Update:
        values = {key: getattr(request, key) for key in self.settings}
        update: Update = {control: setting_update(key, values) for key, control in self.settings.items()}
        for picker, label in zip(self.classes, request.class_labels, strict=True):
            update[picker] = gr.update(choices=class_choices(info.labels), value=label)
        return update | dict(zip(self.seeds, request.seeds, strict=True)) | {self.picker_model: info}


def film(frames: Sequence[Image.Image], seconds: float, recipe: Mapping[str, Any]) -> bytes:
    """A WebP that goes there and back for ever, with its recipe. `seconds`: from one frame to the next."""
    buffer = io.BytesIO()
    first, *others = [*frames, *frames[-2:0:-1]]
    save_picture(
        first, buffer, recipe, "WEBP", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0
    )
    return buffer.getvalue()
