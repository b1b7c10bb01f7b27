"""What a visitor or an API client is told when something goes wrong: one sentence, and no traceback."""

import html
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
import torch
from gradio.components import Component

TYPING = ("change", "input", "release")  # events of a field that may not be filled in yet
MAX_NOTES = 5  # of a recipe, each told in a toast of its own
MAX_TEXT = 400  # characters of a message: it may quote what a stranger sent


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error of the call, or of a file that it names, into a gr.Error of the same words."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = html.escape(sentence(error), quote=False)  # it may quote a file from a stranger
        raise gr.Error(text, print_exception=False) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        text = "The memory does not suffice: ask for fewer images at once, or choose a smaller model."
        raise gr.Error(text, print_exception=False) from error


def sentence(error: Exception) -> str:
    """An error's words with a capital letter and a full stop."""
    text = cut(str(error))
    return text[:1].upper() + text[1:].rstrip(".") + "."


def cut(text: str) -> str:
    """A text as long as a message may be."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} … {text[-MAX_TEXT // 2 :]}"


def where(error: BaseException) -> str:
    """An unexpected error in one line, for the log: what it is and where it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    at = f" at {last.filename}:{last.lineno}" if last else ""
    return f"{type(error).__name__}: {cut(str(error))!r}{at}"


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of a GPU or of this machine: on a CPU torch tells it by its allocator's name alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def warn(notes: Sequence[str], what: str = "Recipe") -> None:
    """Tell what of a recipe, or of a link, could not be taken over: the first few, for there may be thousands."""
    more = [f"and {len(notes) - MAX_NOTES} more"] if len(notes) > MAX_NOTES else []
    for note in [*notes[:MAX_NOTES], *more]:
        gr.Warning(html.escape(f"{what}: {note}.", quote=False))


class CheckedBlocks(gr.Blocks):
    """Blocks that answer what a component cannot take with a sentence that names it, and write no traceback."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> list:
        """The values that a handler is called with, from those that a browser or a client sent."""
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Exception as error:  # a stranger may send anything, and components raise whatever comes
            if isinstance(error, gr.Error) and not error.print_exception:
                raise  # told already
            now = [state[block._id] if state and block._id in state else block for block in block_fn.inputs]
            started = block_fn
            while started.trigger_after is not None:  # the event that this one follows
                started = self.fns[started.trigger_after]
            typing = all(event in TYPING for _, event in started.targets)  # told when a button is pressed, if it stays
            raise gr.Error(refusal(now, inputs), visible=not typing, print_exception=False) from error


def refusal(components: Sequence[Any], values: Sequence[Any]) -> str:
    """Which of the components cannot take its value, and what it takes, as HTML."""
    for component, value in zip(components, values, strict=False):
        if not isinstance(component, Component) or component.stateful or getattr(component, "data_model", None):
            continue
        try:
            component.preprocess(value)
        except Exception:
            label = getattr(component, "label", None) or "A value"
            return html.escape(
                f"{label}: {wanted(component)}" + (f", not {value!r:.60}." if value is not None else ".")
            )
    return "This cannot be used: reload the page and try again."


def wanted(component: Component) -> str:
    """What a component takes."""
    if hasattr(component, "minimum"):
        ends = {"from": component.minimum, "to": component.maximum}
        said = [f"{word} {end:g}" if end % 1 else f"{word} {int(end)}" for word, end in ends.items() if end is not None]
        return " ".join(["enter a number", *said])
    return "choose from the list" if hasattr(component, "choices") else "this cannot be used"
