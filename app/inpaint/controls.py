"""The Inpaint tab's controls: how to repaint, and the settings they stand for."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.common.controls import class_choices, seed_picker, to_label
from app.common.studio import GLUE
from app.engine.engine import ModelInfo
from app.engine.request import GUIDANCE_POWER, GUIDANCE_SCALE, MAX_SEED, check_whole, counting, max_steps
from app.inpaint.request import DEFAULT, FALLBACK, LEAST_STRENGTH, MAX_VARIANTS, PRESETS, Settings
from mdt_core.inpainting import METHODS
from mdt_core.pipeline.canvas import MAX_GROW
from mdt_core.samplers import SAMPLERS

METHOD_NAMES = {"mdt": "MDT", "repaint": "RePaint", "blend": "Blend"}
CONTENT_NAMES = {
    "auto": "What suits the strength",
    "fill": "Blurred surroundings",
    "original": "What is there",
    "noise": "Noise",
}
AREA_NAMES = {"whole": "Whole picture", "crop": "Largest square", "masked": "Only around the mask"}
DEFAULT_PRESET = "Balanced"


@dataclass(frozen=True)
class Controls:
    """In the order of `values_to_settings` and `settings_to_values`."""

    label: gr.Dropdown
    method: gr.Dropdown
    sampler: gr.Dropdown
    steps: gr.Slider
    strength: gr.Slider
    scale: gr.Slider
    power: gr.Slider
    content: gr.Dropdown
    count: gr.Slider
    seed: gr.Number
    area: gr.Dropdown
    grow: gr.Slider
    feather: gr.Slider

    @property
    def all(self) -> list[gr.components.Component]:
        return list(vars(self).values())


def preset_settings(preset: str, info: ModelInfo) -> Settings:
    """A preset for a model: without a side-interpolator it falls back to resampling."""
    method = DEFAULT if info.masked_pass else FALLBACK
    row = METHODS[method]
    steps = max(1, round(PRESETS[preset] * row.num_inference_steps))
    return Settings(info.name, method=method, sampler=row.sampler, num_inference_steps=steps)


def preset_of(settings: Settings, info: ModelInfo) -> str | None:
    """The preset that has the method, the sampler and the steps of these settings."""
    words = ("method", "sampler", "num_inference_steps")
    for name in PRESETS:
        preset = preset_settings(name, info)
        if all(getattr(preset, word) == getattr(settings, word) for word in words):
            return name
    return None


def method_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(name, method) pairs of what a model can do."""
    return [(METHOD_NAMES[name], name) for name, row in METHODS.items() if info.masked_pass or not row.masked_pass]


def named(names: dict[str, str]) -> list[tuple[str, str]]:
    """Choices for a dropdown."""
    return [(name, key) for key, name in names.items()]


def slider(name: str, key: str, low: float, high: float, value: float, step: float = 1, **options: Any) -> gr.Slider:
    """A slider in the page's style."""
    return gr.Slider(
        low, high, value, step=step, label=name, buttons=[], min_width=120, elem_id=f"inpaint-{key}", **options
    )


def lay_out_settings(info: ModelInfo) -> tuple[gr.Radio, dict[str, gr.components.Component]]:
    """The left column, from the preset to the seed: the preset, and controls by name."""
    defaults = preset_settings(DEFAULT_PRESET, info)
    controls: dict[str, gr.components.Component] = {}

    def dropdown(name: str, key: str, choices: list, value: str) -> gr.Dropdown:
        return gr.Dropdown(choices, value=value, label=name, min_width=120, elem_id=f"inpaint-{key}")

    look = {"show_label": False, "container": False, "elem_classes": "segments"}
    preset = gr.Radio(list(PRESETS), value=DEFAULT_PRESET, elem_id="inpaint-preset", **look)
    with gr.Row():
        controls["method"] = dropdown("Method", "method", method_choices(info), defaults.method)
        controls["sampler"] = dropdown("Sampler", "sampler", list(SAMPLERS), defaults.sampler)
    with gr.Row():
        most = max_steps(defaults.sampler)
        controls["steps"] = slider("Steps", "steps", 1, most, defaults.num_inference_steps)
        controls["strength"] = slider("Strength", "strength", LEAST_STRENGTH, 1, defaults.strength, 0.01)
    with gr.Row():
        controls["scale"] = slider("Guidance scale", "scale", *GUIDANCE_SCALE, defaults.guidance_scale, 0.1)
        controls["power"] = slider("Guidance power", "power", *GUIDANCE_POWER, defaults.guidance_power, 0.01)
    with gr.Row():
        controls["count"] = slider("Variants", "count", 1, MAX_VARIANTS, 1)
        controls["seed"] = seed_picker("inpaint")
    controls["content"] = dropdown("Start the hole from", "content", named(CONTENT_NAMES), defaults.masked_content)
    return preset, controls


def lay_out_mask_settings() -> dict[str, gr.components.Component]:
    """Below the picture: what the model looks at, and the mask's edge."""
    defaults = Settings("")
    return {
        "area": gr.Dropdown(
            named(AREA_NAMES), value=defaults.area, label="The model sees", min_width=160, elem_id="inpaint-area"
        ),
        "grow": slider("Grow (px)", "grow", 0, MAX_GROW, defaults.grow),
        "feather": slider("Feather (px)", "feather", 0, MAX_GROW, defaults.feather),
    }


def brought(method: str) -> list[Any]:
    """What a method brings along: its sampler and its steps."""
    row = METHODS[method]
    return [row.sampler, gr.update(maximum=max_steps(row.sampler), value=row.num_inference_steps)]


def wire_presets(preset: gr.Radio, controls: Controls, model: gr.Dropdown, describe: Any) -> None:
    """A preset sets method, sampler and steps; so does a method, to its own."""
    trio = [controls.method, controls.sampler, controls.steps]

    def apply(name: str, model: str) -> list[Any]:
        settings = preset_settings(name, describe(model))
        steps = gr.update(maximum=max_steps(settings.sampler), value=settings.num_inference_steps)
        return [settings.method, settings.sampler, steps]

    def bound(sampler: str, steps: int) -> list[Any]:
        return [None, gr.update(maximum=max_steps(sampler), value=min(steps, max_steps(sampler)))]

    preset.input(apply, [preset, model], trio, **GLUE)
    controls.method.input(lambda method: [None, *brought(method)], controls.method, [preset, *trio[1:]], **GLUE)
    controls.sampler.input(bound, [controls.sampler, controls.steps], [preset, controls.steps], **GLUE)
    controls.steps.input(lambda: None, outputs=preset, **GLUE)


def values_to_settings(model: str, *values: Any) -> Settings:
    """The controls' values -> settings; the seeds of variants count up. ValueError where one is out of range."""
    label, method, sampler, steps, strength, scale, power, content, count, seed, area, grow, feather = values
    check_whole("seed", seed, 0, MAX_SEED)
    check_whole("number of variants", count, 1, MAX_VARIANTS)
    return Settings(
        model=model,
        class_label=to_label(label),
        seeds=counting(seed, count),
        method=method,
        sampler=sampler,
        num_inference_steps=steps,
        guidance_scale=scale,
        guidance_power=power,
        strength=strength,
        masked_content=content,
        area=area,
        grow=grow,
        feather=feather,
    )


def settings_to_values(settings: Settings, info: ModelInfo) -> list[Any]:
    """Settings -> updates of the controls."""
    label = -1 if settings.class_label is None else settings.class_label
    return [
        gr.update(choices=class_choices(info.labels), value=label),
        gr.update(choices=method_choices(info), value=settings.method),
        settings.sampler,
        gr.update(maximum=max_steps(settings.sampler), value=settings.num_inference_steps),
        settings.strength,
        settings.guidance_scale,
        settings.guidance_power,
        settings.masked_content,
        len(settings.seeds),
        settings.seeds[0],
        settings.area,
        settings.grow,
        settings.feather,
    ]
