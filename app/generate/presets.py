"""The Generate tab's presets: the model's own, in a visitor's words."""

import html

from app.common.presets import Presets
from app.engine.model_info import ModelInfo

PAPER = {"sampler": "ddpm", "num_inference_steps": 250, "guidance_scale": 3.8, "guidance_power": 4.0}

# How far their pixels are from those of many steps was measured on the shipped model: train/RESULTS.md
DESCRIPTIONS = {
    "Fast": "For a first look: small details may differ from the slow setting.",
    "Balanced": "Looks almost like the slow setting.",
    "Slow": "The most careful: more steps, nothing left out.",
    None: "Your own settings.",
}


def presets_for(info: ModelInfo) -> Presets:
    """The presets of a model, from the quickest; the slow one leaves no pass out."""
    return {
        name.capitalize(): {**settings, "skip_unconditional": name != "slow"} for name, settings in info.presets.items()
    }


def describe_preset(preset: str | None, presets: Presets) -> str:
    """What a preset is, as HTML, with its figures where the pointer rests."""
    text, settings = DESCRIPTIONS[preset], presets.get(preset or "", {})
    if preset == "Slow" and PAPER.items() <= settings.items():
        text = "The paper's settings: many small steps, nothing left out."
    figures = "{sampler}, {num_inference_steps} steps, scale {guidance_scale:g}, power {guidance_power:g}"
    title = html.escape(figures.format(**settings)) if settings else ""
    return f'<p class="note" title="{title}">{text}</p>'
