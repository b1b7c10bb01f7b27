"""The Teach tab: name a class, drop its pictures, and watch the model learn to draw it.

What learns is `python -m train.teach`, in a process of its own. All that this tab knows of it lies in the run's folder:
the page may close meanwhile, and the app start again.
"""

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.common.controls import control, seed_picker
from app.common.errors import plain_errors
from app.common.stage import duration, message, status_line
from app.common.studio import CHECK, GLUE, Studio, Update, always_last
from app.common.visitors import visitor
from app.engine.models import checkpoint_name
from app.engine.request import Request, counting
from app.engine.settings import Number
from app.teach.begin import begin, check_settings
from app.teach.dropped import Draft
from app.teach.settings import DEFAULTS, TEACHING
from app.teach.sheet import contact_sheet, shown_crops
from app.teach.watch import look_into, running_name, samples, state, taught_runs
from app.teach.zones import Zones, split
from train.teach import process
from train.teach.pictures import reconstruct
from train.teach.process import teaching_threads
from train.teach.teaching import TRAINING_SHARE, measure_step

TAB = "teach"
NEW = ""  # in place of a run's name: the pictures in the drop zones
READY = status_line(0, "Name a class, drop pictures of it, and press Teach<kbd> (Ctrl + Enter)</kbd>.")
BUSY = status_line(0, "One is taught at a time on this machine: wait for the other one, or stop it.")
EMPTY = message(  # train/RESULTS.md
    "The model in use learns to draw what your pictures show; the classes that it has stay as they are. Ten minutes "
    "are enough for thirty pictures of simple things. What has many small parts needs longer; and hundreds of "
    "pictures that have little in common need more than an hour."
)


class RunPicker(gr.Dropdown):
    """A dropdown of runs, which come and go: a name is looked up where it is used."""

    is_template = True  # for the browser it is a dropdown

    def preprocess(self, payload: Any) -> str:
        """The name as it comes."""
        return payload if isinstance(payload, str) else NEW


@dataclass(frozen=True)
class View:
    """What the page shows, to see what has changed; kept by the session."""

    version: int | None = None  # None: the page was just opened
    names: tuple[str, ...] = ()  # of the runs that can be chosen
    status: str = ""  # the line, in which the time passes


def number_field(setting: Number, value: float) -> gr.Number:
    """The control of a number whose range is too wide for a slider."""
    return gr.Number(
        value,
        label=setting.label,
        info=setting.help,
        minimum=setting.low,
        maximum=setting.high,
        step=setting.step,
        precision=0 if isinstance(setting.step, int) else None,
        min_width=90,
        elem_id=f"{TAB}-{setting.id}",
    )


class Teach:
    """The tab's components, and what happens between them. An Update leaves alone what it does not name."""

    def __init__(self, studio: Studio):
        self.studio, self.engine = studio, studio.engine
        self.step_seconds: dict[tuple[str, str, int], float] = {}  # (model, its weights, batch size) -> measured
        with gr.Row(equal_height=False, elem_classes="tab"):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                self._lay_out_controls()
            with gr.Column(min_width=500, elem_classes="result", elem_id="teach-result"):
                self._lay_out_result()
        self.draft = gr.State(Draft(), delete_callback=Draft.close)
        self.view = gr.State(View())
        self._wire()

    def _lay_out_controls(self) -> None:
        self.zones = Zones()
        own = self.settings = {}
        for key in ("minutes", "mirror"):
            own[key] = control(TEACHING[key], DEFAULTS[key], TAB)
        with gr.Accordion("Advanced", open=False, elem_id="teach-advanced", elem_classes="fold"):
            with gr.Row():
                for key in ("steps", "batch_size", "learning_rate"):
                    own[key] = number_field(TEACHING[key], DEFAULTS[key])
            own["seed"], _ = seed_picker(TAB)
            own["keep_old"] = control(TEACHING["keep_old"], DEFAULTS["keep_old"], TAB)
        self.time = gr.HTML(elem_id="teach-time")
        self.start = gr.Button("Teach", variant="primary", elem_id="teach-start", elem_classes="start")
        self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="teach-stop", elem_classes="stop")

    def _lay_out_result(self) -> None:
        with gr.Row(visible=False, elem_classes="taught", equal_height=True) as self.row:
            self.run = RunPicker(
                [("New pictures", NEW)],
                value=NEW,
                label="Show",
                info="What is being taught, or was taught before.",
                scale=0,
                min_width=320,
                elem_id="teach-run",
            )
            buttons = {"size": "sm", "scale": 0, "min_width": 130, "visible": False}
            self.go_on = gr.Button("Go on", elem_id="teach-go-on", **buttons)
            self.generate = gr.Button("Open in Generate", elem_id="teach-generate", **buttons)
            self.watch = gr.Button("Curves and all samples", elem_id="teach-watch", **buttons)
        self.status = gr.HTML(READY, elem_id="teach-status")
        self.stage = gr.HTML(EMPTY, elem_id="teach-stage")

    def _wire(self) -> None:
        studio, model = self.studio, self.studio.model
        seen = [self.run, self.draft, self.view]
        page = [self.row, self.run, self.go_on, self.generate, self.watch, self.start, self.stop, self.view]
        page += [self.status, self.stage]
        studio.watch(self.look, seen, page, [self.run.input])

        dropped = [self.draft, model, *self.zones.inputs]
        timing = [self.settings[key] for key in ("minutes", "steps", "batch_size")]
        timed = [self.draft, model, *timing]
        always_last([setting.change for setting in timing], self.estimate, timed, self.time, **CHECK)
        for checked in (
            always_last(self.zones.changed, self.check, dropped, page, **CHECK),
            studio.model_opened.success(self.check_again, [self.run, *dropped], page, **CHECK),
            always_last([self.run.input], self.check_again, [self.run, *dropped], page, **CHECK),
        ):
            checked.failure(self.reject, self.draft, [self.start, self.status, self.stage], **GLUE)
            checked.success(self.estimate, timed, self.time, **CHECK)

        asked = [self.view, *dropped, *self.settings.values()]
        self.start.click(self.begin, asked, page, **CHECK)
        self.stop.click(self.end, seen, page, **CHECK)
        self.go_on.click(self.resume, seen, page, **CHECK)
        self.generate.click(self.open_in_generate, self.run, self.goal(studio.shown), **CHECK)
        self.watch.click(self.open_progress, self.run, self.goal(studio.run_shown), **CHECK)

    def goal(self, others: Sequence[Any]) -> list[Any]:
        """What changes when another tab is opened."""
        return [*dict.fromkeys([self.studio.model, self.studio.tabs, *others])]

    # --- the pictures that were dropped ----------------------------------------------------------------------

    def check(self, draft: Draft, model: str, *zones: Any) -> Iterator[Update]:
        """Show what was dropped: cropped at once, and as the autoencoder gives it back when that is done."""
        names, drops = split(zones)
        shown = {self.run: NEW, self.view: View(0)}
        if not any(drops):
            draft.close()
            yield shown | {self.status: READY, self.stage: EMPTY}
            return
        draft.status = status_line(0, "Looking at the pictures …")
        yield shown | {self.status: draft.status, self.start: gr.update(interactive=False)}
        with plain_errors():
            draft.read(drops, self.engine.describe(model).image_size)
            draft.sheet = contact_sheet(draft, names, {})
            yield {self.stage: draft.sheet}
            draft.sheet = contact_sheet(draft, names, self.redraw(draft, model))
        draft.model = model
        draft.status = status_line(0, f"{len(draft.learnt):,} pictures to learn from. Press Teach.")
        yield {self.stage: draft.sheet, self.status: draft.status, self.start: gr.update(interactive=True)}

    def check_again(self, chosen: str, draft: Draft, model: str, *zones: Any) -> Iterator[Update]:
        """Another model is in use, or the pictures are to be seen again: check them if that was with another one."""
        if chosen == NEW and draft.learnt and draft.model != model:
            yield from self.check(draft, model, *zones)
        else:
            yield gr.skip()

    def reject(self, draft: Draft) -> Update:
        """The pictures cannot be used, which was told."""
        draft.status = READY
        return {self.start: gr.update(interactive=True), self.status: READY, self.stage: draft.sheet or EMPTY}

    def redraw(self, draft: Draft, model: str) -> dict[Path, Image.Image]:
        """Crop -> what the autoencoder makes of it, of those that the contact sheet shows."""
        crops = shown_crops(draft)
        with self.lent(model) as pipe:
            return dict(zip(crops, reconstruct(pipe, [Image.open(crop) for crop in crops]), strict=True))

    @contextmanager
    def lent(self, model: str) -> Iterator[Any]:
        """The pipeline, when it is this visitor's turn."""
        with self.engine.turns.join(visitor()) as turn:
            turn.wait()
            with self.engine.lent(model) as pipe:
                yield pipe

    def estimate(self, draft: Draft, model: str, minutes: int, steps: int, batch_size: int) -> str:
        """How far it will come on this machine in the time, or how long so many steps will take."""
        if not draft.learnt or process.running_now():
            return ""
        with plain_errors():
            check_settings({"minutes": minutes, "steps": steps, "batch_size": batch_size})
            seconds = self.measure(model, batch_size)
        step = f"A step takes {duration(seconds)} on this machine, so"
        if steps:
            return f'<p class="note">{step} {steps:,} steps are about {duration(steps * seconds / TRAINING_SHARE)}.</p>'
        learning = 60 * minutes * TRAINING_SHARE
        return f'<p class="note">{step} {minutes} min are about {learning / seconds:,.0f} steps.</p>'

    def measure(self, model: str, batch_size: int) -> float:
        """Seconds of a training step of a model on the threads that teaching has; measured once."""
        key = (model, self.engine.describe(model).weights, batch_size)
        if key not in self.step_seconds:
            with self.lent(model) as pipe:
                self.step_seconds[key] = measure_step(pipe, batch_size, teaching_threads())
        return self.step_seconds[key]

    # --- what is taught --------------------------------------------------------------------------------------

    def look(self, asked: str, draft: Draft, view: View) -> Update:
        """Show the chosen run by now; on a page that was just opened, the one that runs. Where nothing has changed,
        nothing is sent."""
        names, running = tuple(taught_runs(self.studio.runs)), running_name(self.studio.runs)
        chosen = running or NEW if view.version is None else asked
        chosen = chosen if chosen in names else NEW
        teaching, other = None, BUSY if running is not None else draft.status or READY
        try:
            teaching = look_into(chosen, self.studio.runs) if chosen else None
        except ValueError as error:
            other = status_line(0, html.escape(str(error)))
        version = hash((names, running, teaching.version if teaching else draft.sheet))
        now = View(version, names, state(teaching) if teaching else other)
        if version == view.version:
            return {self.view: now, self.status: now.status} if now != view else gr.skip()
        able = teaching is not None and teaching.newest_checkpoint is not None
        update = {
            self.view: now,
            self.row: gr.update(visible=bool(names)),
            self.start: gr.update(visible=running is None),
            self.stop: gr.update(visible=running is not None, interactive=bool(running)),
            self.go_on: gr.update(visible=running is None and teaching is not None and not teaching.over),
            self.generate: gr.update(visible=able),
            self.watch: gr.update(visible=teaching is not None and bool(teaching.run.total)),
            self.status: now.status,
            self.stage: samples(teaching) if teaching else draft.sheet or EMPTY,
        }
        # The picker is left alone where it need not change: it may hold a newer choice than was asked for.
        if names != view.names:
            update[self.run] = gr.update(choices=[("New pictures", NEW), *((name, name) for name in names)])
        if chosen != asked:
            update[self.run] = update.get(self.run, {}) | gr.update(value=chosen)
        return update

    def begin(self, view: View, draft: Draft, model: str, *asked: Any) -> Update:
        """Teach what was dropped."""
        zones, settings = asked[: -len(self.settings)], asked[-len(self.settings) :]
        names, drops = split(zones)
        with plain_errors():
            draft.read(drops, self.engine.describe(model).image_size)  # as they are already, but for another model
            chosen = dict(zip(self.settings, settings, strict=True))
            run = begin(self.studio.runs, self.engine.locate(model), draft.named(names), chosen)
        update = self.look(run, draft, View(0))
        return update | {self.run: update[self.run] | {"value": run}}

    def resume(self, chosen: str, draft: Draft, view: View) -> Update:
        """Go on with the chosen run."""
        with plain_errors():
            process.start(look_into(chosen, self.studio.runs).plan)
        return self.look(chosen, draft, replace(view, version=0))

    def end(self, chosen: str, draft: Draft, view: View) -> Update:
        """Stop the run that is at work. It saves what it has learnt, which the next looks will see."""
        if running := running_name(self.studio.runs):
            process.stop(taught_runs(self.studio.runs)[running])
        return {self.stop: gr.update(interactive=False), self.status: status_line(0, "Saving what was learnt …")}

    def open_in_generate(self, chosen: str) -> Update:
        """Go to Generate with what was learnt: the model as it is by now, and its new class."""
        with plain_errors():
            teaching = look_into(chosen, self.studio.runs)
            if teaching.newest_checkpoint is None:
                raise ValueError("There is nothing to open yet: wait for the first pictures.")
            info = self.engine.describe(checkpoint_name(chosen, teaching.newest_checkpoint))
            label = next(index for index, name in info.labels.items() if name in teaching.plan.pictures)
            request = replace(Request.first(info), class_labels=(label,) * 4, seeds=counting(0, 4))
        return {
            self.studio.model: self.studio.choose_model(info.name),
            self.studio.tabs: gr.Tabs(selected="generate"),
            **self.studio.show_request(request, info),
        }

    def open_progress(self, chosen: str) -> Update:
        """Go to Training progress with the run."""
        return self.studio.show_run(chosen)
