"""The controls of one side of the grid: what varies, and its values, typed or chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.classes.mixing import mix_named, mix_text
from app.common.classes.picker import find_labels
from app.common.comparison import AXES, Side
from app.common.studio import Update
from app.compare.grid import TYPED, join_values, parse_values
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.request import Label
from mdt_core.samplers import SAMPLERS

MOST = 16  # values that can be chosen
OFFERED_MODELS = 6
HELP = {"Columns": "What changes from left to right.", "Rows": "What changes from top to bottom."}
DEFAULTS = {
    "seed": (0, 1, 2, 3),
    "guidance_scale": (1, 2, 4),
    "guidance_power": (0.01, 1, 2, 4),
    "num_inference_steps": (5, 10, 25, 50),
    "sampler": tuple(SAMPLERS),
}


@dataclass(frozen=True)
class SideControls:
    """Those of one side; of the three for values one is seen."""

    axis: gr.Dropdown
    typed: gr.Textbox  # numbers
    classes: gr.Dropdown
    listed: gr.Dropdown  # samplers, or models

    @property
    def inputs(self) -> list[Component]:
        """In the order of `read_side`."""
        return [self.axis, self.typed, self.classes, self.listed]

    def by_name(self, name: str) -> dict[str, Component]:
        """Under the names that the browser and links have for them. `name`: of the side."""
        parts = {"axis": self.axis, "values": self.typed, "classes": self.classes, "list": self.listed}
        return {f"{name}_{part}": control for part, control in parts.items()}

    def read(self, name: str, saved: Mapping[str, Any], info: ModelInfo, notes: list[str]) -> Side:
        """The side that a browser kept, or a link names; what is missing is as on a fresh page. Errors: `read_side`."""
        axis, typed, classes, listed = (saved.get(key, each.value) for key, each in self.by_name(name).items())
        labels = find_labels(classes, info, notes, mixes=True) if f"{name}_classes" in saved else spread(info)
        names = [value for value in (listed if isinstance(listed, list) else [listed]) if isinstance(value, str)]
        return read_side(info, axis, str(typed), labels, names)

    def updates(self, side: Side, info: ModelInfo, engine: Engine) -> Update:
        """Show a side."""
        axis, values = side.axis, side.values
        update: Update = {
            self.axis: axis,
            self.typed: gr.update(visible=axis in TYPED),
            self.classes: gr.update(visible=axis == "class", choices=class_choices(info.labels)),
            self.listed: gr.update(visible=axis in ("sampler", "model")),
        }
        if axis in TYPED:
            update[self.typed] |= {"value": join_values(values)}
        elif axis == "class":
            texts = [mix_text(label, info.labels) if isinstance(label, tuple) else label for label in values]
            update[self.classes] |= {"value": texts}
        else:
            names = list(SAMPLERS) if axis == "sampler" else list(engine.models)
            update[self.listed] |= {"choices": [*dict.fromkeys([*names, *values])], "value": list(values)}
        return update


def side_controls(name: str, axis: str, info: ModelInfo) -> SideControls:
    """The controls of the columns or the rows, with what they begin with; a sampler or a model is never first."""
    prefix, side = f"compare-{name.lower()}", name.lower().removesuffix("s")
    values = {"label": f"{side.capitalize()} values", "min_width": 180}
    with gr.Row():
        varies = gr.Dropdown(
            [(text, key) for key, text in AXES.items()],
            value=axis,
            label=name,
            info=HELP[name],
            min_width=160,
            elem_id=prefix,
        )
        typed = gr.Textbox(
            join_values(DEFAULTS[axis]) if axis in TYPED else "",
            info="Numbers, with commas between them.",
            max_lines=1,
            visible=axis in TYPED,
            elem_id=f"{prefix}-typed",
            **values,
        )
        picked = {"multiselect": True, "max_choices": MOST, **values}
        classes = ClassDropdown(
            class_choices(info.labels),
            value=spread(info),
            visible=axis == "class",
            info="Type to search. A mix is typed as NAME:0.6,NAME:0.4.",
            allow_custom_value=True,
            elem_id=f"{prefix}-classes",
            elem_classes="classes",
            **picked,
        )
        listed = gr.Dropdown(
            list(SAMPLERS), visible=False, info=f"One {side} for each.", elem_id=f"{prefix}-listed", **picked
        )
    return SideControls(varies, typed, classes, listed)


def spread(info: ModelInfo) -> list[int]:
    """Three classes, evenly spaced: neighbours may look alike."""
    labels = list(info.labels)
    return list(dict.fromkeys(labels[i * len(labels) // 3] for i in range(3)))


def default_values(axis: str, info: ModelInfo, engine: Engine) -> tuple[Any, ...]:
    """Values to begin with; of models those there are now, oldest checkpoint first."""
    own = {"class": spread(info), "model": list(engine.models)[:OFFERED_MODELS][::-1]}
    return tuple(own.get(axis) or DEFAULTS[axis])


def read_side(info: ModelInfo, axis: str, typed: str, classes: Sequence[Label | str], listed: Sequence[str]) -> Side:
    """What the controls of a side say. ValueError where numbers, or mixes of classes, cannot be read."""
    if axis in TYPED:
        return Side(axis, parse_values(axis, typed))
    if axis == "class":
        return Side(axis, tuple(mix_named(each, info.labels) if isinstance(each, str) else each for each in classes))
    return Side(axis, tuple(listed))
