"""Presets: what each sets, how long it takes on this machine, and which of them some settings are."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.controls import RequestControls, setting_update
from app.common.stage import duration
from app.common.studio import GLUE, Studio, Update, always_last
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.settings import steps_for

Presets = Mapping[str, Mapping[str, Any]]  # name -> settings, keys of a request's table
PresetsFor = Callable[[ModelInfo], Presets]
LOOK_SECONDS = 1.0  # between two looks whether the model is warm, after which the page says how long runs take


def preset_of(request: Request, presets: Presets) -> str | None:
    """The preset that a request follows: the first of which it has all settings."""
    follows = (
        name for name, preset in presets.items() if all(getattr(request, key) == value for key, value in preset.items())
    )
    return next(follows, None)


def preset_choices(engine: Engine, request: Request, presets: Presets) -> list[tuple[str, str]]:
    """(label, preset) pairs; a label says how long such a request will take, where a run of the model has told."""
    seconds = {name: engine.seconds(replace(request, **preset)) for name, preset in presets.items()}
    return [(name if time is None else f"{name} · {duration(time)}", name) for name, time in seconds.items()]


def apply_preset(preset: Mapping[str, Any], controls: Mapping[str, Component]) -> Update:
    """The update that sets what a preset sets; the other controls stay."""
    return {controls[key]: setting_update(key, preset) for key in preset}


def own_settings(request: Request, before: ModelInfo, info: ModelInfo, presets_for: PresetsFor) -> dict[str, Any]:
    """The settings of a request when the model `info` takes the place of `before`, by key: its own ones.

    A preset that was chosen stays that preset; a setting that the visitor changed stays as it is.
    """
    first, old = type(request).first, presets_for(before)
    chosen = preset_of(request, old)
    if chosen not in (None, preset_of(first(before), old)):
        return dict(presets_for(info)[chosen])
    values = {key: getattr(request, key) for key in request.settings}
    own, others = first(info), first(before)
    values |= {key: getattr(own, key) for key, value in values.items() if value == getattr(others, key)}
    steps = min(values["num_inference_steps"], steps_for(values["sampler"]).high)
    return values | {"num_inference_steps": steps, "distilled": values["distilled"] and info.distilled}


class TimedPresets:
    """The picker, which says what each preset takes for the settings at hand, and which of them they are.

    presets_for: a model -> its presets. describe: a preset of them, or None for none of them -> a line of HTML below.
    """

    def __init__(
        self,
        studio: Studio,
        start: Request,
        presets_for: PresetsFor,
        describe: Callable[[str | None, Presets], str] = lambda *_: "",
    ):
        self.engine, self.presets_for, self.describe = studio.engine, presets_for, describe
        self.model = gr.State(studio.info)  # whose settings the controls show, where nobody changed them
        presets = presets_for(studio.info)
        preset = preset_of(start, presets)
        with gr.Column(elem_classes="tight"):
            self.picker = gr.Radio(
                list(presets),
                value=preset,
                label="Preset",
                show_label=False,
                container=False,
                elem_id=f"{start.kind}-preset",
                elem_classes="segments",
            )
            self.description = gr.HTML(describe(preset, presets), elem_id=f"{start.kind}-note")
        self.timer = gr.Timer(LOOK_SECONDS, active=False)  # runs while the model warms up

    def wire(
        self,
        studio: Studio,
        controls: RequestControls,
        run: Dependency,
        loaded: Dependency,
        follow: Callable[..., Update] | None = None,
    ) -> Dependency:
        """Connect the picker. The event that lets the settings follow the model is returned.

        controls: what the presets set, and what their times depend on.
        run: tells how long it took.
        loaded: has brought the settings back when the page was loaded.
        follow: what does more than the method of that name.
        """
        self.controls = controls
        inputs, outputs = [studio.model, *controls.inputs], [self.picker, self.description]
        changes = [control.change for control in controls.inputs if control is not controls.seed]
        always_last(changes, self.update_times, inputs, outputs, **GLUE)
        run.then(self.update_times, inputs, outputs, **GLUE)
        shown = [self.model, *controls.settings.values()]
        asked = [studio.model, self.model, *controls.inputs]
        followed = studio.model_opened.success(follow or self.follow, asked, shown, **GLUE)
        for event in (loaded.then, followed.then, self.timer.tick):
            event(self.update_when_warm, inputs, [*outputs, self.timer], **GLUE)
        self.picker.input(self.apply, [self.picker, studio.model], [*controls.settings.values()], **GLUE)
        return followed

    def apply(self, name: str, model: str) -> Update:
        """Set what a preset sets; the other controls stay."""
        return apply_preset(self.presets_for(self.engine.describe(model))[name], self.controls.settings)

    def follow(self, model: str, before: ModelInfo, *values: Any) -> Update:
        """Another model was chosen: its own settings, but for those that the visitor changed."""
        info = self.engine.describe(model)
        if info == before:
            return {self.model: gr.skip()}
        try:
            request = self.controls.request(before.name, *values)
        except ValueError:  # a number that is being typed
            return {self.model: info}
        own = own_settings(request, before, info, self.presets_for)
        shown = {key: value for key, value in own.items() if key in self.controls.settings}
        return {self.model: info} | apply_preset(shown, self.controls.settings)

    def update_times(self, model: str, *values: Any) -> Update:
        """What a run of each preset takes, as far as runs have told, and which of them the settings are."""
        try:
            request = self.controls.request(model, *values)
        except ValueError:  # a number that is being typed
            return {self.description: gr.skip()}
        presets = self.presets_for(self.engine.describe(model))
        preset = preset_of(request, presets)
        return {
            self.picker: gr.update(choices=preset_choices(self.engine, request, presets), value=preset),
            self.description: self.describe(preset, presets),
        }

    def update_when_warm(self, model: str, *values: Any) -> Update:
        """The same as soon as the warm-up has told. Until then the timer asks: waiting would hold a thread per page."""
        warming = self.engine.warming
        return ({} if warming else self.update_times(model, *values)) | {self.timer: gr.Timer(active=warming)}
