"""The picker of classes, and how it follows the model in use."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from app.common.class_dropdown import ClassDropdown
from app.common.studio import CHECK, GLUE, Studio, Update
from app.engine.model_info import ModelInfo
from app.engine.request import NOWHERE, Label, class_named

NO_CLASS = -1  # a dropdown's value for "no class"


def class_picker(info: ModelInfo, chosen: list[int], most: int, prefix: str) -> gr.Dropdown:
    """A dropdown of classes that filters as one types."""
    return ClassDropdown(
        class_choices(info.labels),
        value=chosen,
        multiselect=True,
        max_choices=most,
        label="What to draw (type to search)",
        info="Of several kinds each gets a part of the pictures.",
        elem_id=f"{prefix}-classes",
        elem_classes="classes",
    )


def class_choices(labels: Mapping[int, str]) -> list[tuple[str, int]]:
    """(label, value) pairs: a class is found by its name or its index."""
    return [
        ("anything (no class)", NO_CLASS),
        *((f"{name} · {index}", index) for index, name in labels.items()),
    ]


def to_label(choice: Label) -> Label:
    """A class picker's value -> a class label; other labels are left as they are."""
    return None if choice == NO_CLASS else choice


def to_choice(label: int | None) -> int:
    """A class label -> a class picker's value."""
    return NO_CLASS if label is None else label


def find_labels(values: Any, info: ModelInfo, notes: list[str]) -> list[int | None]:
    """The classes of a model that a picker had, or that a link names by index or name. Notes those it has not."""
    found: list[int | None] = []
    for value in values if isinstance(values, list) else [values]:
        label = class_named(NOWHERE, value, info.labels) if isinstance(value, str) else value
        if label is None or label == NO_CLASS or (type(label) is int and label in info.labels):
            found.append(None if label == NO_CLASS else label)
        else:
            notes.append(f"{info.name} has no class {str(value)[:60]!r}")
    return [*dict.fromkeys(found)]


def room_for(classes: Sequence[int], count: int | None) -> Any:
    """The number of images where there are more classes than that: each gets one at least."""
    return len(classes) if len(classes) > (count or 0) else gr.skip()


def for_model(info: ModelInfo, chosen: Sequence[int], before: ModelInfo) -> dict:
    """The update of a class picker when another model is chosen: its classes, and of those picked what it has too.

    `before`: the model whose classes are picked; a class keeps its name, not its number.
    """
    names = [(choice, before.labels.get(choice)) for choice in chosen if choice != NO_CLASS]
    same = [NO_CLASS] * (NO_CLASS in chosen) + [class_named(*named, info.labels) for named in names if named[1]]
    same = [choice for choice in dict.fromkeys(same) if choice == NO_CLASS or choice in info.labels]
    return gr.update(choices=class_choices(info.labels), value=same or [next(iter(info.labels))])


def tell_lost(info: ModelInfo, chosen: Sequence[int], before: ModelInfo) -> None:
    """Tell which of the classes picked, of another model, this one does not have."""
    names = [before.labels[choice] for choice in chosen if choice in before.labels]
    if lost := [name for name in names if class_named(NOWHERE, name, info.labels) == NOWHERE]:
        text = f"{info.name} has no {', '.join(lost)}: pick another class."
        gr.Warning(html.escape(text, quote=False))


def bind_to_model(studio: Studio, *pickers: gr.Dropdown, tab: str | None = None) -> gr.State:
    """Let class pickers show the classes of the model in use. The state that is returned holds that model.

    `tab`: one that brings its settings back itself when the page is loaded. While it is in view, a class picked in
    the first picker that is lost is told.
    """
    picker_model = gr.State(studio.info)

    def update(model: str, before: ModelInfo, tab_in_view: str, *chosen: Any) -> Update:
        info = studio.engine.describe(model)
        if info == before:
            return gr.skip()
        update: Update = {picker_model: info}
        for i, (picker, value) in enumerate(zip(pickers, chosen, strict=True)):
            value = value if picker.multiselect else [value]
            if i == 0 and tab_in_view == tab:
                tell_lost(info, value, before)
            changed = for_model(info, value, before)
            update[picker] = changed if picker.multiselect else changed | {"value": changed["value"][0]}
        return update

    inputs, outputs = [studio.model, picker_model, studio.tab_in_view, *pickers], [picker_model, *pickers]
    studio.model_opened.success(update, inputs, outputs, **CHECK)
    if tab is None:
        studio.page.load(update, inputs, outputs, **GLUE)  # it may have been replaced since the app was started
    return picker_model


def check_classes(picker_model: ModelInfo, info: ModelInfo) -> None:
    """ValueError where the picker shows other classes than those of the model in use."""
    if picker_model.name != info.name:
        raise ValueError(f"The classes are still those of {picker_model.name}: wait until {info.name} is open.")
    if picker_model.labels != info.labels:
        raise ValueError(f"{info.name} was replaced and has other classes now: load the page again.")
