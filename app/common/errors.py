"""What a visitor or an API client is told when something goes wrong: one sentence, and no traceback."""

import html
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import gradio as gr
import torch

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
