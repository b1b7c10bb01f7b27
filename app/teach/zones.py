"""Where the pictures of each class are dropped, beside its name."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from app.common.images import was_uploaded
from app.common.studio import GLUE
from app.teach.dropped import MOST_CLASSES
from train.teach.plan import LONGEST_NAME

FORMATS = ["image", ".zip"]


class PictureDrop(gr.File):
    """A box for files, each of which is looked at by itself: one that is no picture does not stop the others."""

    is_template = True  # for the browser it is a box for files

    def preprocess(self, payload: Any) -> list[str]:
        """The paths. gr.Error where one was not uploaded."""
        paths = [file.path for file in payload or ()]
        if not all(map(was_uploaded, paths)):
            raise gr.Error("Drop the pictures once more: they are not here.", print_exception=False)
        return paths


class Zones:
    """A name and a box per class; one is seen at first."""

    def __init__(self) -> None:
        self.columns, self.names, self.drops = [], [], []
        for number in range(MOST_CLASSES):
            which = f" of class {number + 1}" if number else ""
            with gr.Column(visible=number == 0, elem_classes="zone") as column:
                self.columns.append(column)
                self.names.append(
                    gr.Textbox(
                        label=f"Name{which or ' of the class'}",
                        placeholder="What the pictures show",
                        max_length=LONGEST_NAME,
                        elem_id=f"teach-name-{number}",
                    )
                )
                self.drops.append(
                    PictureDrop(
                        label=f"Pictures{which}: drop 8 or more, or a zip, or click",
                        file_count="multiple",
                        file_types=FORMATS,
                        height=120,
                        elem_id=f"teach-drop-{number}",
                    )
                )
        self.count = gr.State(1)  # that are seen
        self.add = gr.Button("Add another class", size="sm", elem_id="teach-add")
        self.add.click(show_one_more, self.count, [self.count, self.add, *self.columns], **GLUE)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """In the order of `split`."""
        return [*self.names, *self.drops]

    @property
    def changed(self) -> Sequence[Callable[..., Any]]:
        """The events of files that come or go."""
        return [drop.change for drop in self.drops]


def split(values: Sequence[Any]) -> tuple[Sequence[str | None], Sequence[Sequence[str]]]:
    """The names and the files, from the values of `inputs`."""
    return values[:MOST_CLASSES], values[MOST_CLASSES:]


def show_one_more(count: int) -> list[Any]:
    """One more class is to be taught."""
    count = min(count + 1, MOST_CLASSES)
    return [
        count,
        gr.update(visible=count < MOST_CLASSES),
        *(gr.update(visible=n < count) for n in range(MOST_CLASSES)),
    ]
