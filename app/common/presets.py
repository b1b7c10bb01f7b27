"""Presets: what each sets, and which of them some settings are."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from app.common.controls import setting_update
from app.common.studio import Update
from app.engine.request import Request

Presets = Mapping[str, Mapping[str, Any]]  # name -> settings, keys of a request's table


def preset_of(request: Request, presets: Presets) -> str | None:
    """The preset that a request follows: the first of which it has all settings."""
    follows = (
        name for name, preset in presets.items() if all(getattr(request, key) == value for key, value in preset.items())
    )
    return next(follows, None)


def preset_picker(presets: Presets, chosen: str | None, prefix: str) -> gr.Radio:
    """The presets as a row of equal parts."""
    return gr.Radio(
        list(presets),
        value=chosen,
        show_label=False,
        container=False,
        elem_id=f"{prefix}-preset",
        elem_classes="segments",
    )


def apply_preset(preset: Mapping[str, Any], controls: Mapping[str, Component]) -> Update:
    """The update that sets what a preset sets; the other controls stay."""
    return {controls[key]: setting_update(key, preset) for key in preset}
