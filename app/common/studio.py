"""What every tab is handed: the engine, the model that the visitor chose, the folder of runs; and kinds of events."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.errors import plain_errors
from app.common.links import from_query
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.models import checkpoint_name
from app.engine.request import Request

Update = dict[Any, Any]  # what a handler returns or yields: component -> its new value or gr.update
GPU = {"concurrency_limit": None}  # of every event that runs a model: they wait in the engine's own queue, see Turns
# Of every event of the page. At every step of any event Gradio looks up each component that ever waited for one, by a
# walk through the whole page, and copies all that lies within it. That takes as long as drawing does: so none waits.
PAGE = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
GLUE = PAGE | {"queue": False}  # of those that only move the page
CHECK = GLUE | {"queue": True, "concurrency_limit": None}  # of those that may refuse: gr.Error needs the queue
LOOK_SECONDS = 2.0  # between two looks at the disk


def always_last(events: Sequence[Callable[..., Dependency]], fn: Callable, *args: Any, **options: Any) -> Dependency:
    """Run `fn` at the events, and once more after a run in which others came. The arguments are those of an event; the
    events are those of components.

    Gradio's own "always_last" starts all listeners of an event again when one of them was held back: two of them would
    keep each other going for ever. So each follows a listener that does nothing and is never held back.
    """
    return gr.on(events, None, js="() => []", **GLUE).then(fn, *args, trigger_mode="always_last", **options)


@dataclass
class Studio:
    """Handed to every tab."""

    engine: Engine
    runs: Path  # the folders of training runs
    model: gr.Dropdown  # the name of the model in use
    model_opened: Dependency  # the event that opened it; on its success a tab offers that model's classes
    info: ModelInfo  # of the model in use when the page opens
    page: gr.Blocks
    kept: gr.BrowserState  # what `keep` has kept, to bring back when the page is loaded again
    tab_in_view: gr.Textbox  # the id of the tab that the visitor sees
    live: bool = True  # whether Live may be on before a visitor turns it on
    tabs: gr.Tabs | None = None  # of the page; a tab's id is its name in lower case
    tab: gr.Tab | None = None  # the one that is being laid out
    actions: gr.Row | None = None  # set by Generate: the row of things to do with a picture; other tabs add buttons
    picture: gr.State | None = None  # set by Generate: the file of the picture that was clicked last
    show_request: Callable[[Request, ModelInfo], Update] | None = None  # set by Generate: in its controls
    shown: Sequence[Component] = ()  # set by Generate: what that changes
    show_run: Callable[[str], Update] | None = None  # set by Training progress: go there, with a run by its name
    run_shown: Sequence[Any] = ()  # set by Training progress: what that changes

    def keep(self, listen: Callable[..., Any], name: str, components: Sequence[Component], value: str) -> None:
        """At an event let the browser keep a JavaScript value of the components' values `v` under a name.

        `listen`: the event, or `partial(gr.on, events)`.
        """
        # Of two events at once the second does not see what the first has kept, unless the window tells it.
        merged = f"{{...kept, ...window.mdtKept, {json.dumps(name)}: {value}}}"
        js = f"(kept, ...v) => (window.mdtKept = {merged})"
        listen(None, [self.kept, *components], self.kept, js=js, **GLUE)

    def watch(
        self,
        look: Callable[..., Update],
        inputs: Sequence[Component],
        page: Sequence[Any],
        events: Sequence[Callable[..., Dependency]],
    ) -> None:
        """Call `look` when the tab that is being laid out opens, again and again while in view, and at `events`."""
        clock = gr.Timer(LOOK_SECONDS, active=False)
        ticking = f"(tab) => ({{__type__: 'update', active: tab === {json.dumps(self.tab.id)}}})"
        self.tab_in_view.change(None, self.tab_in_view, clock, js=ticking, **GLUE)
        always_last([self.tab.select, clock.tick, *events], look, inputs, page, **GLUE)

    def bring_page(self, kept: Any, model: str, request: gr.Request) -> Update:
        """The page was loaded: the tab and the model that its address names, else the model that the browser kept."""
        tab, linked = from_query(request.query_params.multi_items())
        known = tab in [child.id for child in self.tabs.children]
        update: Update = {self.tabs: gr.Tabs(selected=tab) if known else gr.skip()}
        before = kept.get("model") if isinstance(kept, dict) else None
        info = self.kept_model(linked.get("model", before), model)
        return update | ({} if info.name == model else {self.model: self.choose_model(info.name)})

    def kept_model(self, name: Any, otherwise: str) -> ModelInfo:
        """The model that a browser kept or a link names; another one where that cannot be opened."""
        try:
            return self.engine.describe(self.engine.find(name, otherwise))
        except (ValueError, OSError):
            return self.engine.describe(otherwise)

    def choose_model(self, name: str) -> dict:
        """The update of `model` that chooses one, which may have come up after the page was opened."""
        return gr.update(choices=list(self.engine.models), value=name, visible=True)

    def open_in(self, tab: str, run: str, step: int) -> Update:
        """Go to a tab ("generate" or "inpaint") with a checkpoint of a run as the model in use.

        An event that returns this has `model` and `tabs` among its outputs; what cannot be opened is told as gr.Error.
        """
        name = checkpoint_name(run, step)
        with plain_errors():
            self.engine.describe(name)
        return {self.model: self.choose_model(name), self.tabs: gr.Tabs(selected=tab)}
