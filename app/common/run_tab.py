"""What every tab that runs a model does: check what is asked, show the run, end however it ends, load a recipe.

start button -> begin: make_job, queued -> run: its turn, started, preview, ..., result -> finish: ended
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common import recipes
from app.common.controls import RequestControls, random_seed
from app.common.errors import plain_errors, warn
from app.common.stage import WAITING, status_line, waiting_line
from app.common.studio import CHECK, GLUE, GPU, PAGE, Studio, Update
from app.common.visitors import visitor
from app.engine.frames import PREVIEW_SECONDS
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.turns import LOOK_SECONDS


@dataclass
class Job:
    """A run that was asked for, and how far it has come; kept by the session and changed while it goes on."""

    requests: Sequence[Any]  # what the engine is asked for
    done: int = field(default=0, kw_only=True)  # steps, or whatever a tab counts
    total: int = field(default=0, kw_only=True)  # of them
    seconds: float = field(default=0.0, kw_only=True)  # that they took

    def add(self, step: Any) -> bool:
        """Take in what the run yields, a `Frame` of its one request; whether it brings a new preview."""
        self.done, self.total, self.seconds = step.position + 1, step.num_steps, step.seconds
        return bool(step.x_0) and not step.images


class RunTab:
    """The buttons, the status line and the recipe box of a tab, and what happens at each.

    A subclass sets the four texts, lays its components out, calls `wire_run`, and writes the methods that end in "...".
    An Update touches only the components that are in it.
    """

    verb: str  # on the start button; in lower case it begins the elements' ids
    makes: str = "picture"  # what is saved, and loaded again as a recipe
    kind: str  # of its recipes
    ready: str  # the status line before a run
    controls: RequestControls | None = None
    save: gr.DownloadButton | None = None  # of a tab that makes one file
    seed_at: int | None = None  # where the seed stands among what `make_job` takes, if a run may draw a new one

    def __init__(self, studio: Studio):
        self.studio, self.engine = studio, studio.engine
        self.job = gr.State()  # the session's latest; None: forget it, also while it runs

    @property
    def tab(self) -> str:
        """The tab's id, with which those of its elements begin."""
        return self.verb.lower()

    def lay_out_columns(self) -> None:
        """The controls in a narrow column at the left, what they make at the right."""
        with gr.Row(equal_height=False, elem_classes="tab"):
            with gr.Column(scale=0, min_width=400, elem_classes="controls"):
                self.lay_out_controls()
            with gr.Column(min_width=500, elem_classes="result", elem_id=f"{self.tab}-result"):
                self.lay_out_result()

    def lay_out_controls(self) -> None:
        """The left column ..."""
        raise NotImplementedError

    def lay_out_result(self) -> None:
        """The right column ..."""
        raise NotImplementedError

    def lay_out_run(self) -> None:
        """The button that starts a run, and the one that takes its place to stop it."""
        self.start = gr.Button(self.verb, variant="primary", elem_id=f"{self.tab}-start", elem_classes="start")
        self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id=f"{self.tab}-stop", elem_classes="stop")

    def lay_out_recipe(self) -> None:
        """Where a recipe is dropped."""
        self.recipe = gr.File(
            label=f"Load the settings of a saved {self.makes}: drop it, or click",
            file_types=[".png", ".jpg", ".jpeg", ".webp"],
            height=38,
            elem_id=f"{self.tab}-recipe",
            elem_classes="drop",
        )

    def lay_out_status(self) -> None:
        """The status line."""
        self.status = gr.HTML(self.ready, elem_id=f"{self.tab}-status")

    def wire_run(
        self, asked: Sequence[Component], page: Sequence[Component], check_first: bool = True, js: str | None = None
    ) -> Dependency:
        """Connect the buttons. The event that runs the model is returned.

        Args:
            asked: what `make_job` takes.
            page: what the methods change.
            check_first: whether `make_job` is called before the run joins the queue; else `run` calls it.
            js: what the browser does first: a function of the values of `asked` that returns them.
        """
        page = [*page, self.start, self.stop, self.status, self.job]
        if self.controls and self.controls.keep_seed:
            self.seed_at = asked.index(self.controls.seed)
            asked, page = [*asked, self.live.latest, self.controls.keep_seed], [*page, self.controls.seed]
        begun, inputs = self.start.click, asked
        if check_first:
            begun, inputs = self.start.click(self.begin, asked, page, js=js, **CHECK).success, [self.job]
        run = begun(self.run, inputs, page, **PAGE, **GPU)
        for ended in (run.then, run.failure):  # `then` follows a run that is over or was stopped, `failure` an error
            ended(self.finish, self.job, page, **GLUE)
        self.stop.click(None, cancels=[run], **PAGE)
        return run

    def wire_recipe(self, page: Sequence[Component], more: Sequence[Component] = ()) -> None:
        """Connect the recipe box. `page`: what `apply_recipe` changes. `more`: what else it takes."""
        self.recipe_inputs = [self.studio.model, *more]
        self.recipe_page = [*page, self.recipe, self.status, self.studio.model]
        loaded = self.recipe.upload(self.load, [self.recipe, *self.recipe_inputs], self.recipe_page, **CHECK)
        loaded.failure(lambda: None, outputs=self.recipe, **GLUE)  # what was refused does not stay in the box

    # --- a run -----------------------------------------------------------------------------------------------

    def begin(self, *asked: Any) -> Update:
        """Check what is asked before the run joins the queue."""
        values, seed = self.with_seed(asked)
        with plain_errors():
            job = self.make_job(*values)
        waiting = {self.start: gr.update(visible=False), self.stop: gr.update(visible=True), self.status: WAITING}
        return waiting | seed | {self.job: job} | self.queued(job)

    def with_seed(self, asked: Sequence[Any]) -> tuple[Sequence[Any], Update]:
        """What `make_job` takes, with a new seed unless the last of `asked` says to keep it; and how that is shown.

        What was seen as a look is drawn with its seed, whatever is said: see `live`.
        """
        if self.seed_at is None:
            return asked, {}
        *values, latest, keep = asked
        latest.drop(latest.count)  # no look comes after what this run shows
        if keep or latest.looked:
            latest.looked = False
            return values, {}
        values[self.seed_at] = random_seed()
        return values, {self.controls.seed: values[self.seed_at]}

    def run(self, job: Job | None) -> Iterator[Update]:
        """Step by step; stopped by being closed, as Gradio can from the first update on, which waits for nothing."""
        yield {self.status: WAITING}
        if job is not None:
            yield from self.updates(lambda: job)

    def updates(
        self,
        make_job: Callable[[], Job],
        overtaken: Callable[[], bool] = lambda: False,
        show: Callable[[Any, Any], Update] | None = None,
        end: Callable[[Any, Any], Update] | None = None,
    ) -> Iterator[Update]:
        """The place in the queue, the previews of a run, no more often than a browser can show them, then its result.

        Args:
            make_job: called when the run's turn has come.
            overtaken: whether the run is not wanted any more: then it ends, within a step.
            show: a job and its step -> what shows how far it is; by default `preview`.
            end: a job and its last step -> what shows what it made; by default `result`.
        """
        with plain_errors():
            with self.engine.turns.join(visitor()) as turn:
                while not (come := turn.wait(LOOK_SECONDS)) and not overtaken():
                    yield {self.status: waiting_line(turn.before)}
                if not come or overtaken():
                    return
                job = make_job()
                if update := self.started(job):
                    yield update
                latest, step = 0.0, None
                with self.steps(job) as steps:
                    for step in steps:
                        if overtaken():
                            return
                        if job.add(step) and perf_counter() - latest >= PREVIEW_SECONDS:
                            yield (show or self.preview)(job, step)
                            latest = perf_counter()
            if overtaken():
                return
            update = (end or self.result)(job, step)  # the model is free again: nobody waits until files are written
        if update:
            yield update

    def finish(self, job: Job | None) -> Update:
        """Ended, stopped or failed: the page is ready again, and shows what there is."""
        idle = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False), self.status: self.ready}
        return idle if job is None else idle | self.ended(job)

    def make_job(self, *asked: Any) -> Job:
        """What the controls ask for. ValueError where it makes no sense ..."""
        raise NotImplementedError

    def queued(self, job: Job) -> Update:
        """What else changes when a run has joined the queue: what was made before can no more be saved ..."""
        return {} if self.save is None else {self.save: gr.update(visible=False)}

    def started(self, job: Job) -> Update:
        """What changes when a run's turn has come. ValueError where it cannot be any more ..."""
        return {}

    def steps(self, job: Job) -> AbstractContextManager[Iterable[Any]]:
        """What a run yields; leaving it stops the run ..."""
        return closing(self.engine.run(job.requests))

    def preview(self, job: Job, step: Any) -> Update:
        """What shows how far a run is ..."""
        raise NotImplementedError

    def result(self, job: Job, step: Any) -> Update:
        """What shows a run's result after its last step ..."""
        return {}

    def ended(self, job: Job) -> Update:
        """What changes however a run ended, its status among it ..."""
        raise NotImplementedError

    # --- a recipe --------------------------------------------------------------------------------------------

    def load(self, path: str, model: str, *more: Any) -> Update:
        """Set all controls from a saved picture, as far as they can be."""
        with plain_errors():
            recipe = recipes.read(path, self.kind)
            info = self.engine.describe(self.engine.find(recipe.get("model"), model))
            request, update, notes = self.apply_recipe(recipe, info, path, *more)
        warn(notes)
        again = ", as far as it goes." if notes else f". Press {self.verb} for the same {self.makes} again."
        text = status_line(0, f"Recipe loaded: seed {request.seeds[0]}{again}")
        return {self.recipe: None, self.studio.model: self.studio.choose_model(info.name), self.status: text} | update

    def apply_recipe(
        self, recipe: Mapping[str, Any], info: ModelInfo, path: str, *more: Any
    ) -> tuple[Request, Update, list[str]]:
        """What a recipe asks for, the update of the controls, and what could not be taken over ..."""
        raise NotImplementedError
