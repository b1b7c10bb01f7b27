"""A second class to mix into those that are picked: what the controls say, and what they show of a label."""

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.studio import Update
from app.engine.model_info import ModelInfo
from app.engine.request import Label, Mix, label_of
from mdt_core.pipeline.labels import parse_label


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
        second = gr.update(choices=class_choices(info.labels), value=other if share else list(info.labels)[-1])
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


def mixed(label: int | None, other: int | None, share: float) -> Label:
    """A class and so much of another one, 0 to 1. ValueError where it is no such number."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"How much of the second class must be a number from 0 to 1, not {share!r}.")
    if share in (0, 1) or label == other:
        return other if share == 1 else label
    return (label, round(1 - share, 12)), (other, share)


def split(label: Label) -> tuple[int | None, int | None, float]:
    """A label as the controls show it: the first class, the second, and its share, 0 where there is none.

    Of a mix of more than two, the two that weigh most.
    """
    if not isinstance(label, tuple):
        return label, None, 0
    heaviest = sorted(label, key=lambda part: part[1], reverse=True)[:2]
    (first, a), (second, b) = sorted(heaviest, key=label.index)
    return first, second, b / (a + b)


def mix_named(text: str, labels: Mapping[int, str]) -> Label:
    """A class by its name, or a mix of two, "dylan:0.6,sprouts:0.4". ValueError where it is neither."""
    label = label_of(parse_label(text, labels), labels)
    if isinstance(label, tuple) and len(label) > 2:
        raise ValueError(f"a mix is of two classes here, written as NAME:0.6,NAME:0.4, not {text!r}")
    return label


def mix_text(mix: Mix, labels: Mapping[int, str]) -> str:
    """What `mix_named` reads as this mix."""
    return ",".join(f"{labels[label]}:{weight!r}" for label, weight in mix)
