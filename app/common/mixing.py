"""A second class to mix into those that are picked: what the controls say, and what they show of a label."""

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from app.common.class_dropdown import ClassDropdown
from app.common.class_picker import NO_CLASS, class_choices, to_choice, to_label
from app.common.studio import Update
from app.engine.model_info import ModelInfo
from app.engine.request import Label


@dataclass(frozen=True)
class MixControls:
    """A class, and how much of it there is in every picture; folded away until they are wanted."""

    fold: gr.Accordion
    other: gr.Dropdown
    share: gr.Slider

    @property
    def inputs(self) -> list[Component]:
        """In the order of `mixed`."""
        return [self.other, self.share]

    def updates(self, label: Label, info: ModelInfo) -> Update:
        """Show what of a label the class picker does not show."""
        _, other, share = split(label)
        second = gr.update(choices=class_choices(info.labels), value=list(info.labels)[-1] if other is None else other)
        return {self.other: second, self.share: share, self.fold: gr.update(open=share > 0)}


def mix_controls(info: ModelInfo, prefix: str) -> MixControls:
    """The controls, closed; nothing is mixed."""
    with gr.Accordion("Mix with another class", open=False, elem_id=f"{prefix}-mix", elem_classes="mix") as fold:
        other = ClassDropdown(
            class_choices(info.labels),
            value=list(info.labels)[-1],
            label="and",
            info="A second class: every picture is drawn of both.",
            elem_id=f"{prefix}-mix-class",
        )
        share = gr.Slider(
            *(0, 1, 0),
            step=0.05,
            buttons=[],
            label="How much of it",
            info="0: nothing; 0.5: as much as of the first; 1: the second class alone.",
            elem_id=f"{prefix}-mix-share",
        )
    return MixControls(fold, other, share)


def mixed(choice: int, other: int, share: float) -> Label:
    """A choice of a class picker and so much of another one, 0 to 1. ValueError where it is no such number."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"How much of the second class must be a number from 0 to 1, not {share!r}.")
    if share in (0, 1) or choice == other:
        return to_label(other if share == 1 else choice)
    first, second = (None if each == NO_CLASS else each for each in (choice, other))
    return (first, round(1 - share, 12)), (second, share)


def split(label: Label) -> tuple[int, int | None, float]:
    """A label as the controls show it: the first class, the second if there is one, and its share.

    Of a mix of more than two, the two that weigh most.
    """
    if not isinstance(label, tuple):
        return to_choice(label), None, 0
    heaviest = sorted(label, key=lambda part: part[1], reverse=True)[:2]
    (first, a), (second, b) = sorted(heaviest, key=label.index)
    return to_choice(first), to_choice(second), b / (a + b)
