"""The Generate tab's presets: what each sets, and how long it takes on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.controls import Sampling, to_request
from app.common.stage import duration
from app.common.studio import GLUE, Studio, Update
from app.engine.engine import Engine
from app.engine.request import Request, max_steps

LOOK_SECONDS = 1.0  # between two looks whether the model is warm, after which the page says how long runs take

# What each is, and how far its pixels are on average (of 255) from those of 250 dpm++ steps: measured on the shipped
# model, one picture of each class (train/RESULTS.md)
NOTES = {
    "Fast": "10 steps · avatars: 2.9 of 255 from where many steps lead",
    "Balanced": "25 steps · avatars: 0.9 of 255 from where many steps lead",
    "Paper": "250 steps with fresh noise, nothing skipped: another picture",
    None: "Your own settings",
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
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


def preset_of(request: Request) -> str | None:
    """The preset that a request follows."""
    follows = (
        name
        for name, preset in PRESETS.items()
        if all(getattr(request, setting) == value for setting, value in preset.items())
    )
    return next(follows, None)


def preset_choices(engine: Engine, request: Request) -> list[tuple[str, str]]:
    """(label, preset) pairs; a label says how long such a request will take, where a run of the model has told."""
    seconds = {name: engine.seconds(replace(request, **preset)) for name, preset in PRESETS.items()}
    return [(name if known is None else f"{name} · {duration(known)}", name) for name, known in seconds.items()]


def note(preset: str | None) -> str:
    """What is said of a preset, as HTML."""
    return f'<p class="note">{NOTES[preset]}</p>'


class Presets:
    """The picker, which says what each preset takes for the settings at hand, and which of them they are."""

    def __init__(self, engine: Engine):
        self.engine = engine
        look = {"show_label": False, "container": False, "elem_classes": "segments"}
        with gr.Column(elem_classes="tight"):
            self.picker = gr.Radio(list(PRESETS), value="Balanced", elem_id="generate-preset", **look)
            self.note = gr.HTML(note("Balanced"), elem_id="generate-note")
        self.clock = gr.Timer(LOOK_SECONDS, active=False)  # runs while the model warms up

    def wire(self, studio: Studio, settings: Sequence[Component], sampling: Sampling, run: Dependency) -> None:
        """`settings`: what `to_request` takes after the model. `run`: tells how long it took."""
        self.sampling = sampling
        asked, told = [studio.model, *settings], [self.picker, self.note]
        gr.on([setting.change for setting in settings], self.tell, asked, told, trigger_mode="always_last", **GLUE)
        run.then(self.tell, asked, told, **GLUE)
        for look in (studio.page.load, studio.opened.success, self.clock.tick):
            look(self.tell_when_warm, asked, [*told, self.clock], **GLUE)
        self.picker.input(self.apply, self.picker, sampling.inputs, **GLUE)

    def apply(self, name: str) -> Update:
        """Set what a preset sets; the other controls stay."""
        preset, controls = PRESETS[name], self.sampling
        update = {
            controls.sampler: preset["sampler"],
            controls.steps: gr.update(maximum=max_steps(preset["sampler"]), value=preset["num_inference_steps"]),
            controls.skip: preset["skip_unconditional"],
        }
        guidance = {"guidance_scale": controls.scale, "guidance_power": controls.power}
        return update | {slider: preset[setting] for setting, slider in guidance.items() if setting in preset}

    def tell(self, *settings: Any) -> Update:
        """What a run of each preset takes, as far as runs have told, and which of them the settings are."""
        try:
            request = to_request(*settings)
        except ValueError:  # a number that is being typed
            return {self.note: gr.skip()}
        preset = preset_of(request)
        return {
            self.picker: gr.update(choices=preset_choices(self.engine, request), value=preset),
            self.note: note(preset),
        }

    def tell_when_warm(self, *settings: Any) -> Update:
        """The same as soon as the warm-up has told. Until then the clock asks: waiting would hold a thread per page."""
        warming = self.engine.warming
        return ({} if warming else self.tell(*settings)) | {self.clock: gr.Timer(active=warming)}
