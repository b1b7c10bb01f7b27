"""Live: what a visitor changes is drawn at once with few steps, and dropped within a step when it is overtaken.

In the browser a hidden number counts the changes. Its own change starts two events: one without queue, which tells the
session (`Latest`, an object that all its runs share), and one that draws, of which Gradio keeps one going and one
waiting (`always_last`). That one carries the number it was asked with, and ends before its next step as soon as the
session knows a higher one. No event is ever cancelled to begin another: Gradio then loses the last.

slider moved, class or seed changed, stroke ended -> a look: few steps, no files
slider let go                                     -> the whole run
start button pressed, stroke begun                -> what is drawn live is dropped
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.errors import sentence
from app.common.presets import TimedPresets
from app.common.run_tab import Job
from app.common.settings_tab import SettingsTab
from app.common.stage import status_line
from app.common.studio import GLUE, GPU, PAGE, Update
from app.engine.engine import Engine
from app.engine.request import AnyRequest

QUICK_SECONDS = 1.0  # that a look may take: Live is on by default where one picture takes less, and draws no more

# (on, count, whole) => the next count, if Live is on. A slider that is let go without having moved asks for nothing,
# and neither does a number field that is left, which Gradio calls the same.
LOOK = """(on, n, w) => {
  window.mdtTyped = document.activeElement?.type === "number";
  return on ? [(window.mdtChanges = (window.mdtChanges ?? 0) + 1), false] : [n, w];
}"""
WHOLE = """(on, n, w) => {
  if (!on || window.mdtTyped || (window.mdtWhole ?? 0) === (window.mdtChanges ?? 0)) return [n, w];
  window.mdtWhole = window.mdtChanges = window.mdtChanges + 1;
  return [window.mdtChanges, true];
}"""


@dataclass
class Latest:
    """What a session asked for last; its runs look at it before every step."""

    count: int = 0  # of the latest change
    dropped: int = 0  # what was asked for up to this one is not wanted any more
    looked: bool = False  # the page shows a look: the next run is of the same seed
    chosen: bool = False  # the visitor turned the switch, which is not turned for them from then on

    def overtaken(self, count: int) -> bool:
        """Whether what was asked for with this count is not to be drawn."""
        return count < self.count or count <= self.dropped

    def ask(self, count: int) -> None:
        """Something was changed. Of two that arrive in the wrong order the later counts."""
        self.count = max(self.count, count)

    def drop(self, count: int) -> None:
        """What was asked for so far is not wanted any more."""
        self.dropped = max(self.dropped, count)


class Live:
    """The switch of a tab, and the events that count what a visitor changes."""

    def __init__(self, prefix: str):
        self.switch = gr.Checkbox(
            False,
            label="Live",
            info="Draw at once what you change, with few steps; let go of a slider, and it is drawn with all of them.",
            container=False,
            scale=0,
            min_width=70,
            elem_id=f"{prefix}-live",
            elem_classes="small",
        )
        self.count = gr.Number(0, precision=0, visible="hidden", elem_id=f"{prefix}-changes")
        self.whole = gr.Checkbox(False, visible="hidden")
        self.latest = gr.State(Latest())
        self.count.change(Latest.ask, [self.latest, self.count], trigger_mode="multiple", **GLUE)

    def look_at(self, *events: Any) -> None:
        """Events that ask for a look."""
        self._count(LOOK, events)

    def draw_whole_at(self, *events: Any) -> None:
        """Events that ask for the whole run."""
        self._count(WHOLE, events)

    def drop_at(self, *events: Any) -> None:
        """Events after which nothing is drawn that was asked for before."""
        for event in events:
            event(Latest.drop, [self.latest, self.count], trigger_mode="multiple", **GLUE)

    def _count(self, js: str, events: Sequence[Any]) -> None:
        inputs, outputs = [self.switch, self.count, self.whole], [self.count, self.whole]
        for event in events:  # each by itself: `gr.on` does not take the painter's
            event(None, inputs, outputs, js=js, trigger_mode="multiple", **GLUE)


def first_images(request: AnyRequest, count: int = 1) -> AnyRequest:
    """The same of the first pictures alone."""
    return replace(request, class_labels=request.class_labels[:count], seeds=request.seeds[:count])


def look_of(request: AnyRequest, fast: Mapping[str, Any], engine: Engine) -> AnyRequest:
    """The same with no more steps than the fast preset, and of its pictures those that are drawn within a second.

    Weights for few steps know one guidance, the model's own: where it was changed, the change is what is looked at.
    """
    steps = min(request.num_inference_steps, fast["num_inference_steps"])
    guidance, defaults = asdict(request.guidance), engine.describe(request.model).sampling_defaults
    if fast.get("distilled") and guidance.items() <= defaults.items():
        own = {key: value for key, value in fast.items() if key in request.settings}
    else:
        own = {key: fast[key] for key in request.trajectory if key in fast}
    look = replace(request, **own | {"num_inference_steps": steps})
    for count in range(len(request.seeds), 1, -1):
        if (engine.seconds(first_images(look, count)) or 0) <= QUICK_SECONDS:
            return first_images(look, count)
    return first_images(look)


class LiveTab(SettingsTab):
    """A tab that draws at once what is changed, where its switch is on.

    A subclass calls `wire_live`, and writes the methods that end in "...".
    """

    presets: TimedPresets

    def lay_out_run(self) -> None:
        """The buttons, and the switch beside them."""
        with gr.Row(equal_height=True, elem_classes="with-live"):
            super().lay_out_run()
            self.live = Live(self.tab)

    def wire_live(self, asked: Sequence[Component], page: Sequence[Component], js: str | None = None) -> Dependency:
        """Connect the controls. The arguments are those of `wire_run`; the event that draws is returned."""
        live, latest, controls = self.live, self.live.latest, self.controls
        page = [*page, self.start, self.stop, self.status, self.job]
        asked = [*asked, latest, live.count, live.whole]
        drawn = live.count.change(self.follow, asked, page, js=js, trigger_mode="always_last", **PAGE, **GPU)
        drawn.failure(self.finish, self.job, page, **GLUE)
        live.look_at(*(control.input for control in controls.inputs))
        live.draw_whole_at(*(control.release for control in controls.inputs if isinstance(control, gr.Slider)))
        live.drop_at(self.start.click, self.stop.click)
        live.switch.input(self.choose_live, [latest, live.switch], **GLUE)
        studio = self.studio
        for event in (studio.page.load, studio.model_opened.success, self.presets.timer.tick):
            event(self.offer_live, [latest, studio.model], live.switch, **GLUE)
        return drawn

    def choose_live(self, latest: Latest, on: bool) -> None:
        """The visitor turned the switch."""
        latest.chosen = True

    def offer_live(self, latest: Latest, model: str) -> Any:
        """On where a picture takes less than a second, as soon as that is known, unless the visitor has chosen."""
        if latest.chosen or self.engine.warming or not self.studio.live:
            return gr.skip()
        info = self.engine.describe(model)
        seconds = self.engine.seconds(first_images(self.look_of(self.controls.kind.first(info))))
        return seconds is not None and seconds < QUICK_SECONDS

    def look_of(self, request: AnyRequest) -> AnyRequest:
        """What is drawn at once of a request."""
        fast = self.presets.presets_for(self.engine.describe(request.model))["Fast"]
        return look_of(request, fast, self.engine)

    def follow(self, *asked: Any) -> Iterator[Update]:
        """Draw what was changed, unless something else has been by now."""
        *values, latest, count, whole = asked
        yield gr.skip()  # one that yields nothing blanks the page
        if latest.overtaken(count):
            return
        try:
            job = self.make_job(*values)
        except ValueError as error:  # nothing is painted yet, a number is being typed
            yield {self.status: status_line(0, html.escape(sentence(error), quote=False))}
            return
        yield from self.draw_whole(job, latest, count) if whole else self.draw(self.look_job(job), latest, count)

    def draw(self, job: Job, latest: Latest, count: int) -> Iterator[Update]:
        """A run of which nothing is kept."""
        yield from self.updates(lambda: job, lambda: latest.overtaken(count), self.look, self.look)
        latest.looked = latest.looked or not latest.overtaken(count)

    def look_job(self, job: Job) -> Job:
        """The run of a look, in place of the whole one ..."""
        raise NotImplementedError

    def look(self, job: Job, step: Any) -> Update:
        """What shows a look, or how far it is; its last step has the pictures ..."""
        raise NotImplementedError

    def draw_whole(self, job: Job, latest: Latest, count: int) -> Iterator[Update]:
        """All steps ..."""
        raise NotImplementedError
