"""The controls of a request, made from the table of settings: classes, number, seed, and one per setting."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.classes.dropdown import class_choices
from app.common.classes.mixing import MixControls, mixed, split
from app.common.classes.picker import find_labels
from app.common.guidance_curve import guidance_curve
from app.common.recipes import with_settings
from app.common.studio import GLUE, Update, always_last
from app.engine.model_info import ModelInfo
from app.engine.request import AnyRequest, Label, Request, counting
from app.engine.settings import KEEP_SEED, SEED, Choice, Number, Setting, steps_for
from mdt_core.samplers import SAMPLERS


@dataclass(frozen=True)
class RequestControls(Generic[AnyRequest]):
    """Those of one request."""

    kind: type[AnyRequest]
    classes: gr.Dropdown
    count: Component | None  # None: one image
    seed: gr.Number
    settings: dict[str, Component]  # a key of the kind's table -> its control; what has none keeps its default
    keep_seed: gr.Checkbox | None = None  # off: every run draws a seed of its own; None: it never does
    mix: MixControls | None = None  # None: nothing is mixed

    @property
    def inputs(self) -> list[Component]:
        """In the order that `request` takes their values."""
        mix = [] if self.mix is None else self.mix.inputs
        count = [] if self.count is None else [self.count]
        return [self.classes, *count, self.seed, *self.settings.values(), *mix]

    @property
    def outputs(self) -> list[Any]:
        """What `updates` sets."""
        keep_seed = [] if self.keep_seed is None else [self.keep_seed]
        return [*self.inputs, *keep_seed, *([] if self.mix is None else [self.mix.fold])]

    def request(self, model: str, classes: Any, *values: Any) -> AnyRequest:
        """What the controls ask for. ValueError where a value cannot be used."""
        if self.mix is not None:
            values, (other, share) = values[:-2], values[-2:]
            labels = classes if isinstance(classes, list) else [classes]
            classes = [mixed(label, other, share) for label in labels]
        count, seed, *chosen = values if self.count is not None else (1, *values)
        settings = dict(zip(self.settings, chosen, strict=True))
        return to_request(model, classes, count, seed, self.kind, **settings)

    @property
    def by_name(self) -> dict[str, Component]:
        """Under the names that the browser and links have for them."""
        own = {"class_labels": self.classes, "num_images": self.count, "seed": self.seed, "keep_seed": self.keep_seed}
        mix = {} if self.mix is None else {"mixed_with": self.mix.other, "mixed_share": self.mix.share}
        return {name: control for name, control in own.items() if control is not None} | self.settings | mix

    def read(self, saved: Mapping[str, Any], info: ModelInfo) -> tuple[AnyRequest, list[Label], list[str]]:
        """What a browser kept, or a link names: the request, its classes, and notes on what could not be used.

        That, and what is missing, is as on a fresh page.
        """
        notes: list[str] = []
        start = self.kind.first(info)
        own = {"seed": start.seeds[0]} | {key: getattr(start, key) for key in start.settings}
        request = with_settings(start, own | saved, notes)
        found = find_labels(saved["class_labels"], info, notes) if "class_labels" in saved else []
        found = found or find_labels(self.classes.value, info, []) or [next(iter(info.labels))]
        labels = self.read_mix(found[: self.classes.max_choices], saved, info, notes)
        count = saved.get("num_images", self.count.value) if self.count else 1
        try:
            self.kind.count.check(count)
        except ValueError as error:
            notes.append(str(error).rstrip("."))
            count = self.count.value
        request = replace(request, class_labels=(None,) * count, seeds=counting(request.seeds[0], count))
        return request, labels, notes

    def read_mix(
        self, labels: Sequence[Label], saved: Mapping[str, Any], info: ModelInfo, notes: list[str]
    ) -> list[Label]:
        """Classes with what a browser kept, or a link names, mixed in; without it where that cannot be used."""
        if not saved.get("mixed_share"):
            return [*labels]
        others = find_labels(saved.get("mixed_with"), info, notes)
        try:
            return [mixed(label, others[0], saved["mixed_share"]) for label in labels]
        except (ValueError, IndexError):
            notes.append("its mix of classes is not usable")
            return [*labels]

    def updates(self, request: Request, info: ModelInfo) -> Update:
        """Set the controls to a request."""
        update = self.class_updates(request.class_labels, info) | {self.seed: request.seeds[0]}
        if self.keep_seed is not None:
            update[self.keep_seed] = True
        if self.count is not None:
            update[self.count] = len(request.seeds)
        values = {key: getattr(request, key) for key in self.settings}
        return update | {control: setting_update(key, values) for key, control in self.settings.items()}

    def class_updates(self, labels: Sequence[Label], info: ModelInfo) -> Update:
        """Set the class picker to labels, each once; what is mixed in is the last one's."""
        chosen = list(dict.fromkeys(split(label)[0] for label in labels))
        value = chosen if self.classes.multiselect else chosen[0]
        update: Update = {self.classes: gr.update(choices=class_choices(info.labels), value=value)}
        return update if self.mix is None else update | self.mix.updates(labels[-1], info)


def to_request(
    model: str,
    classes: int | list[Label] | None,
    count: int,
    seed: int,
    kind: type[AnyRequest] = Request,
    **settings: Any,
) -> AnyRequest:
    """Controls -> request: `count` images, at least one of each class, share the classes; their seeds count up."""
    kind.count.check(count)
    SEED.check(seed)
    labels = (classes if isinstance(classes, list) else [classes]) or [None]
    count = max(count, len(labels))
    shared = tuple(labels[i * len(labels) // count] for i in range(count))
    return kind(model, shared, counting(seed, count), **settings)


def setting_update(key: str, values: Mapping[str, Any]) -> Any:
    """The update that sets one control. `values`: of settings; the sampler among them bounds the steps."""
    if key != "num_inference_steps":
        return values[key]
    return gr.update(maximum=steps_for(values["sampler"]).high, value=values[key])


def setting_controls(request: Request, prefix: str, *keys: str) -> dict[str, Component]:
    """Controls of some settings of a request, side by side, by key."""
    table = request.settings | {"num_inference_steps": steps_for(request.sampler)}
    if len(keys) == 1:
        return {keys[0]: control(table[keys[0]], getattr(request, keys[0]), prefix)}
    with gr.Row():
        return {key: control(table[key], getattr(request, key), prefix) for key in keys}


def control(setting: Setting, value: Any, prefix: str) -> Component:
    """The control of one setting."""
    named = {"label": setting.label, "info": setting.help, "elem_id": f"{prefix}-{setting.id}"}
    match setting:
        case Number():
            return gr.Slider(setting.low, setting.high, value, step=setting.step, buttons=[], min_width=120, **named)
        case Choice():
            choices = [(label, key) for key, label in setting.options.items()]
            return gr.Dropdown(choices, value=value, min_width=120, **named)
        case _:
            return gr.Checkbox(value, container=False, elem_classes="small", **named)


def seed_picker(prefix: str, keep_seed: gr.Checkbox | None = None) -> tuple[gr.Number, Dependency]:
    """A seed with dice, and the event that throws them. `keep_seed`: turned on where one is typed or thrown."""
    with gr.Column(min_width=140, elem_classes="tight"):
        with gr.Row(elem_classes="seed"):
            seed = gr.Number(
                0,
                label=SEED.label,
                info=SEED.help,
                precision=0,
                minimum=SEED.low,
                maximum=SEED.high,
                min_width=80,
                elem_id=f"{prefix}-{SEED.id}",
            )
            dice = gr.Button(
                "Draw a new seed", size="sm", min_width=40, scale=0, elem_id=f"{prefix}-dice", elem_classes="dice"
            )
        if keep_seed is not None:
            keep_seed.render()
            gr.on([seed.input, dice.click], lambda: True, outputs=keep_seed, **GLUE)
    return seed, dice.click(random_seed, outputs=seed, **GLUE)


def keep_seed_switch(prefix: str) -> gr.Checkbox:
    """Whether runs keep the seed; shown by `seed_picker`."""
    return gr.Checkbox(
        label=KEEP_SEED.label,
        info=KEEP_SEED.help,
        container=False,
        render=False,
        elem_id=f"{prefix}-{KEEP_SEED.id}",
        elem_classes="small",
    )


def random_seed() -> int:
    """Any seed."""
    return random.randint(SEED.low, SEED.high)


def bring_steps(settings: Mapping[str, Component]) -> None:
    """Let a sampler that is chosen bring its own number of steps along."""
    settings["sampler"].input(steps_of, settings["sampler"], settings["num_inference_steps"], **GLUE)


def steps_of(sampler: str) -> dict:
    """The update of the steps for a sampler just chosen."""
    return gr.update(maximum=steps_for(sampler).high, value=SAMPLERS[sampler].default_steps)


def show_guidance_curve(controls: RequestControls, drawing: gr.HTML) -> None:
    """Let the guidance curve follow the controls."""

    def draw(*values: Any) -> Any:
        try:
            return draw_curve(controls.request("", *values))
        except ValueError:  # a number that is being typed, or controls that change one after the other
            return gr.skip()

    drawing.value = draw(*[component.value for component in controls.inputs])
    changes = [component.change for component in (controls.classes, *controls.settings.values())]
    always_last(changes, draw, controls.inputs, drawing, **GLUE)


def draw_curve(request: Request) -> str:
    """The guidance curve of a request."""
    guided = request.guidance_kind != "class" or any(label is not None for label in request.class_labels)
    return guidance_curve(
        **request.trajectory, guidance=request.guidance, skip=request.skip_unconditional, guided=guided
    )
