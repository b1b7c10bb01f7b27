"""The picker of classes, and how it follows the model in use."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.common.classes.dropdown import NO_CLASS, ClassDropdown, class_choices
from app.common.classes.mixing import mix_named
from app.common.studio import CHECK, GLUE, Studio, Update
from app.engine.model_info import ModelInfo
from app.engine.request import NOWHERE, Label, class_named


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


def find_labels(values: Any, info: ModelInfo, notes: list[str], mixes: bool = False) -> list[Label]:
    """The classes that a picker had in the browser, or that a link names by index or name. Notes what is none here.

    `mixes`: whether there is a place for mixes of classes, too.
    """
    found: list[Label] = []
    for value in values if isinstance(values, list) else [values]:
        label = class_named(NOWHERE, value, info.labels) if isinstance(value, str) else value
        if mixes and label == NOWHERE and (mix := find_mix(value, info)):
            found.append(mix)
        elif label is None or label == NO_CLASS or (type(label) is int and label in info.labels):
            found.append(None if label == NO_CLASS else label)
        else:
            notes.append(f"{info.name} has no class {str(value)[:60]!r}")
    return [*dict.fromkeys(found)]


def find_mix(text: str, info: ModelInfo) -> Label:
    """A mix of classes as people write it; None where it is none of this model's."""
    try:
        label = mix_named(text, info.labels)
    except ValueError:
        return None
    return label if isinstance(label, tuple) else None


def room_for(classes: Sequence[int | None], count: int | None) -> Any:
    """The number of images where there are more classes than that: each gets one at least."""
    return len(classes) if len(classes) > (count or 0) else gr.skip()


def for_model(info: ModelInfo, chosen: Sequence[int | str | None], before: ModelInfo) -> dict:
    """The update of a class picker when another model is chosen: its classes, and of those picked what it has too.

    `before`: the model whose classes are picked; a class keeps its name, not its number.
    """
    names = [(label, before.labels.get(label)) for label in chosen if label is not None]
    same = [None] * (None in chosen) + [class_named(*named, info.labels) for named in names if named[1]]
    same = [label for label in dict.fromkeys(same) if label is None or label in info.labels]
    same += [text for text in chosen if isinstance(text, str) and find_mix(text, info)]
    return gr.update(choices=class_choices(info.labels), value=same or [next(iter(info.labels))])


def warn_of_lost(info: ModelInfo, chosen: Sequence[int | str | None], before: ModelInfo) -> None:
    """Tell which of the classes picked, of another model, this one does not have."""
    names = [before.labels[label] for label in chosen if label in before.labels]
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
                warn_of_lost(info, value, before)
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
