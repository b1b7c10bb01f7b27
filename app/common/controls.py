"""Controls that more than one tab has: classes, seed, sampler, steps and guidance with its curve."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.common.guidance_curve import guidance_curve
from app.common.studio import GLUE, Studio
from app.engine.engine import ModelInfo
from app.engine.request import (
    GUIDANCE_POWER,
    GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    Request,
    check_whole,
    class_named,
    counting,
    max_steps,
)
from mdt_core.samplers import SAMPLERS

NO_CLASS = -1  # a dropdown's value for "no class"
# measured on the shipped model, 25 dpm++ steps, one picture of each class: train/RESULTS.md
SKIP_LABEL = "Skip needless passes (avatars: 0.02 of 255 apart)"


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    sampler: gr.Dropdown
    steps: gr.Slider
    scale: gr.Slider
    power: gr.Slider
    skip: gr.Checkbox

    @property
    def inputs(self) -> list[gr.components.Component]:
        """In the order that `to_request` takes them."""
        return [self.sampler, self.steps, self.scale, self.power, self.skip]


def class_picker(info: ModelInfo, chosen: list[int], most: int, prefix: str) -> gr.Dropdown:
    """A dropdown of classes that filters as one types."""
    return gr.Dropdown(
        class_choices(info.labels),
        value=chosen,
        multiselect=True,
        max_choices=most,
        label="Classes (type to filter)",
        elem_id=f"{prefix}-classes",
        elem_classes="classes",
    )


def class_choices(labels: Mapping[int, str]) -> list[tuple[str, int]]:
    """(label, value) pairs: a class is found by its name or its index."""
    return [
        ("no class (unconditional)", NO_CLASS),
        *((f"{name} · {index}", index) for index, name in labels.items()),
    ]


def room_for(classes: Sequence[int], count: int | None) -> Any:
    """The number of images where there are more classes than that: each gets one at least."""
    return len(classes) if len(classes) > (count or 0) else gr.skip()


def for_model(info: ModelInfo, chosen: Sequence[int], before: ModelInfo) -> dict:
    """The update of a class picker when another model is chosen: its classes, and of those picked what it has too.

    `before`: the model whose classes are picked; a class keeps its name, not its number.
    """
    names = [(choice, before.labels.get(choice)) for choice in chosen if choice != NO_CLASS]
    kept = [NO_CLASS] * (NO_CLASS in chosen) + [class_named(*named, info.labels) for named in names if named[1]]
    kept = [choice for choice in dict.fromkeys(kept) if choice == NO_CLASS or choice in info.labels]
    return gr.update(choices=class_choices(info.labels), value=kept or [next(iter(info.labels))])


def follow_model(studio: Studio, picker: gr.Dropdown) -> gr.State:
    """Let a class picker follow the model in use. What is returned holds the model whose classes it shows."""
    offered = gr.State(studio.info)

    def offer(model: str, chosen: list[int], before: ModelInfo) -> tuple[dict, ModelInfo]:
        info = studio.engine.describe(model)
        return (gr.skip(), gr.skip()) if info == before else (for_model(info, chosen, before), info)

    asked = [studio.model, picker, offered]
    studio.opened.success(offer, asked, [picker, offered], **GLUE)
    studio.page.load(offer, asked, [picker, offered], **GLUE)  # it may have been replaced since the app was started
    return offered


def check_offered(offered: ModelInfo, info: ModelInfo) -> None:
    """ValueError where the picker shows other classes than those of the model in use."""
    if offered.name != info.name:
        raise ValueError(f"The classes are still those of {offered.name}: wait until {info.name} is open.")
    if offered.labels != info.labels:
        raise ValueError(f"{info.name} was replaced and has other classes now: load the page again.")


def seed_picker(prefix: str) -> gr.Number:
    """A seed with dice."""
    with gr.Row(elem_classes="seed"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=80, elem_id=f"{prefix}-seed"
        )
        dice = gr.Button("⚄", size="sm", min_width=40, scale=0, elem_id=f"{prefix}-dice", elem_classes="dice")
    dice.click(random_seed, outputs=seed, **GLUE)
    return seed


def run_controls(verb: str, picture: str = "picture") -> tuple[gr.Button, gr.Button, gr.File]:
    """The button that starts a run, the one that takes its place to stop it, and where a recipe is dropped."""
    prefix = verb.lower()
    start = gr.Button(verb, variant="primary", elem_id=f"{prefix}-start", elem_classes="start")
    stop = gr.Button("Stop", variant="stop", visible=False, elem_id=f"{prefix}-stop", elem_classes="stop")
    recipe = gr.File(
        label=f"Load recipe: drop a saved {picture}, or click",
        file_types=[".png"],
        height=38,
        elem_id=f"{prefix}-recipe",
        elem_classes="drop",
    )
    return start, stop, recipe


def random_seed() -> int:
    """Any seed."""
    return random.randint(0, MAX_SEED)


def sampling_controls(info: ModelInfo, prefix: str, classes: gr.Dropdown | None = None) -> Sampling:
    """Sampler, steps, guidance scale and power; with a picker of classes, also the guidance curve that follows all."""
    defaults = Request(info.name, (None,), (0,), num_inference_steps=10 if info.slow else 25)
    with gr.Row():
        sampler = gr.Dropdown(
            list(SAMPLERS), value=defaults.sampler, label="Sampler", min_width=120, elem_id=f"{prefix}-sampler"
        )
        steps = gr.Slider(
            1,
            max_steps(defaults.sampler),
            value=defaults.num_inference_steps,
            step=1,
            label="Steps",
            buttons=[],
            min_width=120,
            elem_id=f"{prefix}-steps",
        )
    with gr.Row():
        scale = gr.Slider(
            *GUIDANCE_SCALE,
            value=defaults.guidance_scale,
            step=0.1,
            label="Guidance scale",
            buttons=[],
            min_width=120,
            elem_id=f"{prefix}-scale",
        )
        power = gr.Slider(
            *GUIDANCE_POWER,
            value=defaults.guidance_power,
            step=0.01,
            label="Guidance power",
            buttons=[],
            min_width=120,
            elem_id=f"{prefix}-power",
        )
    drawing = gr.HTML(elem_id=f"{prefix}-curve") if classes else None
    skip = gr.Checkbox(
        defaults.skip_unconditional, label=SKIP_LABEL, container=False, elem_id=f"{prefix}-skip", elem_classes="small"
    )
    controls = Sampling(sampler, steps, scale, power, skip)
    sampler.input(steps_of, sampler, steps, **GLUE)
    if drawing:
        shown = [classes, *controls.inputs]
        drawing.value = draw_curve(*[component.value for component in shown])
        changes = [component.change for component in shown]
        gr.on(changes, draw_curve, shown, drawing, trigger_mode="always_last", **GLUE)
    return controls


def draw_curve(classes: Sequence[int], sampler: str, steps: int, scale: float, power: float, skip: bool) -> str:
    """The guidance curve; while the controls change one after the other the steps may exceed the sampler's."""
    guided = any(to_label(choice) is not None for choice in classes)
    return guidance_curve(sampler, min(steps, max_steps(sampler)), scale, power, skip, guided)


def steps_of(sampler: str) -> dict:
    """The update of the steps slider for a sampler just chosen."""
    return gr.update(maximum=max_steps(sampler), value=SAMPLERS[sampler].default_steps)


def to_label(choice: int) -> int | None:
    """A class picker's value -> a class label."""
    return None if choice == NO_CLASS else choice


def to_request(
    model: str,
    classes: Sequence[int],
    count: int,
    seed: int,
    sampler: str,
    steps: int,
    scale: float,
    power: float,
    skip: bool = True,
) -> Request:
    """Controls -> request: `count` images, at least one of each class, share the classes; their seeds count up."""
    check_whole("number of images", count, 1, MAX_IMAGES)
    check_whole("seed", seed, 0, MAX_SEED)
    labels = [to_label(choice) for choice in classes] or [None]
    count = max(count, len(labels))
    return Request(
        model=model,
        class_labels=tuple(labels[i * len(labels) // count] for i in range(count)),
        seeds=counting(seed, count),
        guidance_scale=scale,
        guidance_power=power,
        num_inference_steps=steps,
        sampler=sampler,
        skip_unconditional=skip,
    )


def from_request(request: Request, info: ModelInfo, class_labels: Sequence[int | None] | None = None) -> list:
    """Request -> updates of the controls, in the order of `to_request`. `class_labels`: other classes."""
    labels = dict.fromkeys(request.class_labels if class_labels is None else class_labels)
    chosen = [NO_CLASS if label is None else label for label in labels]
    return [
        gr.update(choices=class_choices(info.labels), value=chosen),
        len(request.seeds),
        request.seeds[0],
        request.sampler,
        gr.update(maximum=max_steps(request.sampler), value=request.num_inference_steps),
        request.guidance_scale,
        request.guidance_power,
        request.skip_unconditional,
    ]
