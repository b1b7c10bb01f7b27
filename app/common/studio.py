"""What the tabs share: the engine, the model that the visitor chose, the folder of runs."""

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.events import Dependency

from app.engine.engine import Engine, ModelInfo
from app.engine.frames import Frame
from app.engine.models import checkpoint_name

MOST_NOTES = 5  # of a recipe, that are told one by one
Update = dict[Any, Any]  # what a handler returns or yields: component -> its new value or gr.update
GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}  # of every event that runs a model: one queue for all
GLUE = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # of events that only move the page
CHECK = GLUE | {
    "queue": True,
    "concurrency_limit": None,
}  # of those that may refuse: gr.Error shows from the queue only


def on_end(run: Dependency, handler: Callable, inputs: Any, outputs: Any) -> None:
    """Call `handler` however a run ends: `then` follows one that is over or was stopped, `failure` an error."""
    for ended in (run.then, run.failure):
        ended(handler, inputs, outputs, **GLUE)


@dataclass
class Studio:
    """Handed to every tab."""

    engine: Engine
    runs: Path  # the folders of training runs
    model: gr.Dropdown  # the name of the model in use
    opened: Dependency  # the event that opened it; on its success a tab offers that model's classes
    info: ModelInfo  # of the model in use when the page opens
    page: gr.Blocks
    tabs: gr.Tabs | None = None  # of the page; a tab's id is its name in lower case
    actions: gr.Row | None = None  # set by Generate: the row of things to do with a picture; other tabs add buttons
    picture: gr.State | None = None  # set by Generate: the file of the picture that was clicked last

    def pick(self, name: str) -> dict:
        """The update of `model` that chooses one, which may have come up after the page was opened."""
        return gr.update(choices=list(self.engine.models), value=name, visible=True)

    def open_in(self, tab: str, run: str, step: int) -> Update:
        """Go to a tab ("generate" or "inpaint") with a checkpoint of a run as the model in use.

        An event that returns this has `model` and `tabs` among its outputs; what cannot be opened is told as gr.Error.
        """
        name = checkpoint_name(run, step)
        with clear_errors():
            self.engine.describe(name)
        return {self.model: self.pick(name), self.tabs: gr.Tabs(selected=tab)}


def progress(fraction: float, text: str) -> str:
    """The status line: a bar and a text (HTML) that screen readers announce."""
    bar = f'<div class="bar"><i style="width: {100 * fraction:.1f}%"></i></div>'
    return f'<div class="status" role="status">{bar}<span>{text}</span></div>'


WAITING = progress(0, "Waiting for the model …")  # a run's status until its first step


def clock(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Tell a visitor or API client what went wrong in a sentence, without a trace: the error's own words."""
    try:
        yield
    except (ValueError, OSError) as error:  # of the call, or of a file that it names
        text = html.escape(sentence(error), quote=False)  # it may quote a file from a stranger
        raise gr.Error(text, print_exception=False) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        text = "The memory does not suffice: ask for fewer images at once, or choose a smaller model."
        raise gr.Error(text, print_exception=False) from error


def sentence(error: Exception) -> str:
    """What an error says, as the page says it."""
    text = str(error)
    return text[:1].upper() + text[1:].rstrip(".") + "."


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of a GPU or of this machine: on a CPU torch tells it by its allocator's name alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def warn(notes: Sequence[str]) -> None:
    """Tell what of a recipe could not be taken over: a stranger's may lack thousands of things, of which a few tell."""
    more = [f"and {len(notes) - MOST_NOTES} more"] if len(notes) > MOST_NOTES else []
    for note in [*notes[:MOST_NOTES], *more]:
        gr.Warning(html.escape(f"Recipe: {note}.", quote=False))


def describe(frame: Frame) -> str:
    """Where a run is: step, speed, time left."""
    return (
        f"Step <b>{frame.index + 1}</b> of {frame.total} · {frame.seconds_per_step:.2f} s per step"
        f" · {clock(frame.seconds_left)} left"
    )
