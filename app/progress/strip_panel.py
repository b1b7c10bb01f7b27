"""The part of the Training progress tab that shows one class from step to step, as a strip of pictures: what training
itself drew, and a seed of one's own drawn with every checkpoint."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.controls import control, seed_picker, setting_update, to_request
from app.common.errors import plain_errors
from app.common.images import jpeg_uri, publish_picture, uri, window
from app.common.run_tab import Job, RunTab
from app.common.stage import duration, figure, image, status_line
from app.common.studio import GLUE, Studio, Update
from app.engine.request import Request
from app.engine.runs import RunSnapshot
from app.engine.settings import SAMPLING, steps_for
from app.progress.download import Download
from app.progress.strip import (
    PictureCache,
    Sample,
    Strip,
    StripUpdate,
    at_rest,
    chosen_steps,
    draw,
    offered_labels,
    plan,
    recipe_of,
    shared_settings,
)
from app.progress.timeline import strip_timeline
from app.progress.view import Uri

DEFAULTS = Request("", (None,), (0,))
SIDE = 160  # pixels of a preview
MARK = "watch('value', () => window.trainingProgress.mark());"  # progress.js

Runs = Callable[..., list[RunSnapshot]]  # the runs of the names that the pickers hold
Previews = Mapping[tuple[str, int], str]  # (run, step) that is being drawn -> its picture so far, as an address


class StripJob(Job):
    """A strip; what is done is counted in cells."""

    def __init__(self, strip: Strip, subject: tuple[str | None, str | None, int | None]):
        super().__init__([cell.request for cell in strip.cells], total=len(strip.cells))
        self.strip, self.subject = strip, subject  # the runs and the class that were asked for
        self.going = bool(strip.cells)  # until it has ended

    def add(self, step: StripUpdate) -> bool:
        """Take in where the drawing is."""
        self.done, self.seconds = self.strip.done, self.strip.seconds
        return step.done or step.preview is not None


class StripPanel(RunTab):
    """The part's components, and what happens between them."""

    verb = "Render"  # of the elements' ids
    ready = ""

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.cache = PictureCache()
        with gr.Row(elem_classes="ask"):
            self._lay_out()
        self.note = gr.HTML(elem_id="training-offer")
        with gr.Row(visible=False, elem_classes="checkpoints", equal_height=True) as self.bottom:
            self.lay_out_status()
            self.download = Download("training-strip", "Save this strip as", "Download strip")
        self.stage = gr.HTML(js_on_load=MARK, elem_id="training-strip")

    def _lay_out(self) -> None:
        self.label = ClassDropdown(
            class_choices({}),
            value=None,
            label="Class",
            info="What the strip shows. Type to filter the list.",
            min_width=215,
            elem_id="training-class",
        )
        self.seed, _ = seed_picker("training")
        steps = replace(steps_for(DEFAULTS.sampler), label="Drawing steps")
        self.num_steps = control(steps, DEFAULTS.num_inference_steps, "training")
        self.scale = control(SAMPLING["guidance_scale"], DEFAULTS.guidance_scale, "training")
        self.lay_out_run()
        self.start.value = "Draw with every checkpoint"

    def wire(self, names: Sequence[gr.components.Component], runs: Runs, view: gr.HTML, uri: Uri) -> None:
        """Connect the part with the pickers of runs, and with the view of what they hold."""
        self.runs, self.show = runs, partial(show, uri_of=uri)
        self.wire_run([*names, self.label, self.seed, self.num_steps, self.scale], [self.bottom, self.stage])
        self.download.wire(self.export, [self.job])
        changes, page = [self.label.change, view.change], [self.bottom, self.stage, self.status, self.job]
        gr.on(changes, self.rest, [*names, self.label, self.job], page, trigger_mode="always_last", **GLUE)

    def rest(self, first: str | None, second: str | None, label: int | None, job: StripJob | None) -> Update:
        """Show what training drew of the class, unless a strip of it is or was drawn, or nothing has changed."""
        subject = (first, second, label)
        if job is not None and (job.going or (job.strip.cells and job.subject == subject)):
            return gr.skip()
        strip = at_rest(self.runs(first, second), label)
        if job is not None and job.subject == subject and job.strip.samples == strip.samples:
            return gr.skip()
        shown = {self.stage: self.show(strip), self.status: self.ready, self.job: StripJob(strip, subject)}
        return shown | {self.bottom: gr.update(visible=bool(strip.samples))}

    def offer(self, runs: Sequence[RunSnapshot]) -> tuple[list[tuple[str, int]], str, bool, dict[str, Any]]:
        """What can be asked of some runs: the classes to choose from, a sentence, whether there is a checkpoint, and
        with which settings it begins."""
        own, able = shared_settings(runs), [run for run in runs if run.checkpoints]
        choices = class_choices(offered_labels(runs))
        if not able:
            return choices, "No checkpoint was kept here, only pictures: there is nothing to draw with.", False, own
        steps, every = set(chosen_steps(able)), sum(len(run.checkpoints) for run in able)
        used = sum(step in steps for run in able for step in run.checkpoints)
        count = f"each of {every} checkpoints" if used == every else f"{used} of {every} checkpoints, evenly chosen"
        lacking = "".join(f"; {run.name} kept none" for run in runs if not run.checkpoints)
        return choices, f"Your own seed, drawn with {count}: models saved on the way{lacking}.", True, own

    def show_offer(self, offer: tuple, before: tuple) -> Update:
        """Put an offer on the page. Class and settings are chosen anew only where there are others than before."""
        choices, note, able, own = offer
        update = {
            self.note: f'<p class="note">{html.escape(note)}</p>',
            self.start: gr.update(interactive=able),
        }
        if choices not in before[:1]:
            first = choices[min(1, len(choices) - 1)][1]  # the first choice is no class
            update[self.label] = gr.update(choices=choices, value=first)
        if own and own not in before[3:]:
            update[self.num_steps] = setting_update("num_inference_steps", own)
            update[self.scale] = own["guidance_scale"]
        return update

    @property
    def offered(self) -> list[gr.components.Component]:
        """What `show_offer` touches."""
        return [self.label, self.note, self.start, self.num_steps, self.scale]

    # --- a run -----------------------------------------------------------------------------------------------

    def make_job(self, first: str, second: str, label: int | None, seed: int, steps: int, scale: float) -> StripJob:
        """The strip of these runs and settings."""
        runs = self.runs(first, second)
        settings = shared_settings(runs) | {"num_inference_steps": steps, "guidance_scale": scale}
        return StripJob(plan(runs, to_request("", label, 1, seed, **settings)), (first, second, label))

    def queued(self, job: StripJob) -> Update:
        """The strip without its pictures."""
        return {self.bottom: gr.update(visible=True), self.stage: self.show(job.strip)}

    def steps(self, job: StripJob) -> AbstractContextManager[Iterator[StripUpdate]]:
        """Checkpoint by checkpoint."""
        publish = partial(publish_picture, component=self.stage)
        return closing(draw(self.engine, job.strip, self.cache, publish))

    def preview(self, job: StripJob, step: StripUpdate) -> Update:
        """The strip so far."""
        previews = {step.cell.key: jpeg_uri(step.preview, SIDE)} if step.preview else {}
        return {
            self.stage: self.show(job.strip, previews=previews),
            self.status: status_line(job.done / job.total, describe(job.strip, step)),
        }

    def ended(self, job: StripJob) -> Update:
        """What was drawn."""
        job.going = False
        status = status_line(job.strip.done / job.total, summary(job.strip)) if job.total else self.ready
        return {self.stage: self.show(job.strip), self.status: status}

    def export(self, kind: str, job: StripJob | None) -> str:
        """The strip as far as it was drawn, as a file."""
        with plain_errors():
            if job is None:
                raise ValueError("Draw a strip first.")
            strip = job.strip
            name = f"{'-'.join(strip.runs)}-{strip.subject}-{strip.request.seeds[0] if strip.cells else 'training'}"
            return self.download.publish(strip_timeline(strip), kind, name, recipe_of(strip, self.engine))


def show(strip: Strip, uri_of: Uri, previews: Previews | None = None) -> str:
    """A strip as HTML: a row per run, a column per step, through which the arrow keys go (progress.js)."""
    rows = []
    for number, run in enumerate(strip.runs):
        figures = "".join(show_cell(strip, run, step, uri_of, previews or {}) for step in strip.steps)
        heading = f'<header><h2 class="run-{number}">{html.escape(run)}</h2></header>' if len(strip.runs) > 1 else ""
        rows.append(f'{heading}<div class="cells">{figures}</div>')
    said = f"{html.escape(strip.subject)} from step to step: the arrow keys go through them"
    kind = f'class="checkpoint-strip" role="group" tabindex="0" aria-label="{said}"'
    return f'<div {kind} style="--columns: {len(strip.steps)}">{explain(strip)}{"".join(rows)}</div>'


def explain(strip: Strip) -> str:
    """What stands in a strip, where that is not what was asked for."""
    if not strip.samples:
        return "" if strip.cells else '<p class="note">Training drew no picture of this class.</p>'
    if not strip.cells:
        text = f"{strip.subject}, as training drew it on its way: the same seed at every step"
    elif strip.samples.keys() <= strip.pictures.keys() | strip.problems.keys():
        return ""
    else:
        text = "Dashed: drawn during training, with a seed and settings of its own"
    return f'<p class="note">{html.escape(text)}.</p>'


def show_cell(strip: Strip, run: str, step: int, uri_of: Uri, previews: Previews) -> str:
    """The place of a run and a step: a picture, the reason why there is none, a frame for one to come, or nothing."""
    key, said = (run, step), f"{run}, step {step:,}"
    if key in strip.pictures:
        content = image(uri(strip.pictures[key]), said)
    elif key in strip.problems:
        content = f'<p class="problem">{html.escape(strip.problems[key])}</p>'
    elif key in previews:
        content = image(previews[key], said)
    elif key in strip.samples:
        content = show_sample(strip.samples[key], uri_of, f"{said}, drawn during training", bool(strip.cells))
    elif any(cell.key == key for cell in strip.cells):
        content = "<i></i>"
    else:
        return figure("", "", data_step=step)
    return figure(content, f"{step:,}", data_step=step)


def show_sample(sample: Sample, uri_of: Uri, said: str, dashed: bool) -> str:
    """A window onto a sample's sheet."""
    sheet = sample.sheet
    place = window(sample.column, 0, sheet.columns, sheet.rows)
    style = f"--sheet: url('{uri_of(sheet)}'); --classes: {sheet.columns}; --rows: {sheet.rows}; {place}"
    kind = "sample dashed" if dashed else "sample"
    return f'<i class="{kind}" role="img" aria-label="{html.escape(said)}" style="{html.escape(style)}"></i>'


def describe(strip: Strip, update: StripUpdate) -> str:
    """Where a run is."""
    left = "" if update.seconds_left is None else f" · {duration(update.seconds_left)} left"
    where = f"{html.escape(update.cell.run)}, step {update.cell.step:,}"
    return f"Checkpoint <b>{strip.cells.index(update.cell) + 1}</b> of {len(strip.cells)} · {where}{left}"


def summary(strip: Strip) -> str:
    """How a run ended."""
    if strip.done < len(strip.cells):
        return f"Stopped after {strip.done} of {len(strip.cells)} checkpoints."
    subject = f"{html.escape(strip.subject)}, seed {strip.request.seeds[0]}"
    before = len(strip.pictures) - strip.drawn
    reused = f" · {before} drawn before" if before else ""
    unread = f" · {len(strip.problems)} cannot be read" if strip.problems else ""
    drawn = f"{strip.drawn} picture{'s' * (strip.drawn != 1)} in {duration(strip.seconds)}"
    return f"{subject} · {drawn}{reused}{unread}"
