"""The Generate tab's presets: what each sets, and how long it takes on this machine."""

from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app.common.controls import RequestControls
from app.common.presets import Presets, apply_preset, preset_of, preset_picker
from app.common.stage import duration
from app.common.studio import GLUE, Studio, Update
from app.engine.engine import Engine
from app.engine.request import Request

LOOK_SECONDS = 1.0  # between two looks whether the model is warm, after which the page says how long runs take

# What each is, and how far its pixels are on average (of 255) from those of 250 dpm++ steps: measured on the shipped
# model, one picture of each class (train/RESULTS.md)
DESCRIPTIONS = {
    "Fast": "10 steps · avatars: 2.9 of 255 from where many steps lead",
    "Balanced": "25 steps · avatars: 0.9 of 255 from where many steps lead",
    "Paper": "250 steps with fresh noise, nothing skipped: another picture",
    None: "Your own settings",
}

PRESETS: Presets = {
    "Fast": {"sampler": "dpm++", "num_inference_steps": 10, "skip_unconditional": True},
    "Balanced": {"sampler": "dpm++", "num_inference_steps": 25, "skip_unconditional": True},
    # arXiv 2303.14389, section 4.1: 250 DDPM steps, power-cosine guidance (here without a pass left out)
    "Paper": {
        "sampler": "ddpm",
        "num_inference_steps": 250,
        "skip_unconditional": False,
        "guidance_scale": 3.8,
        "guidance_power": 4.0,
    },
}


def preset_choices(engine: Engine, request: Request) -> list[tuple[str, str]]:
    """(label, preset) pairs; a label says how long such a request will take, where a run of the model has told."""
    seconds = {name: engine.seconds(replace(request, **preset)) for name, preset in PRESETS.items()}
    return [(name if time is None else f"{name} · {duration(time)}", name) for name, time in seconds.items()]


def describe_preset(preset: str | None) -> str:
    """What a preset is, as HTML."""
    return f'<p class="note">{DESCRIPTIONS[preset]}</p>'


class TimedPresets:
    """The picker, which says what each preset takes for the settings at hand, and which of them they are."""

    def __init__(self, engine: Engine, start: Request):
        self.engine = engine
        preset = preset_of(start, PRESETS)
        with gr.Column(elem_classes="tight"):
            self.picker = preset_picker(PRESETS, preset, "generate")
            self.description = gr.HTML(describe_preset(preset), elem_id="generate-note")
        self.timer = gr.Timer(LOOK_SECONDS, active=False)  # runs while the model warms up

    def wire(self, studio: Studio, controls: RequestControls, run: Dependency) -> None:
        """`controls`: what the presets set, and what their times depend on. `run`: tells how long it took."""
        self.controls = controls
        inputs, outputs = [studio.model, *controls.inputs], [self.picker, self.description]
        gr.on(
            [control.change for control in controls.inputs],
            self.update_times,
            inputs,
            outputs,
            trigger_mode="always_last",
            **GLUE,
        )
        run.then(self.update_times, inputs, outputs, **GLUE)
        for event in (studio.page.load, studio.model_opened.success, self.timer.tick):
            event(self.update_when_warm, inputs, [*outputs, self.timer], **GLUE)
        self.picker.input(self.apply, self.picker, [*controls.settings.values()], **GLUE)

    def apply(self, name: str) -> Update:
        """Set what a preset sets; the other controls stay."""
        return apply_preset(PRESETS[name], self.controls.settings)

    def update_times(self, model: str, *values: Any) -> Update:
        """What a run of each preset takes, as far as runs have told, and which of them the settings are."""
        try:
            request = self.controls.request(model, *values)
        except ValueError:  # a number that is being typed
            return {self.description: gr.skip()}
        preset = preset_of(request, PRESETS)
        return {
            self.picker: gr.update(choices=preset_choices(self.engine, request), value=preset),
            self.description: describe_preset(preset),
        }

    def update_when_warm(self, model: str, *values: Any) -> Update:
        """The same as soon as the warm-up has told. Until then the timer asks: waiting would hold a thread per page."""
        warming = self.engine.warming
        return ({} if warming else self.update_times(model, *values)) | {self.timer: gr.Timer(active=warming)}
