"""The settings of a run: what each may be, and what the page calls it.

One table lies under the page's controls, the checks of every request, recipes and presets. A setting's key is the name
that it has in the pipeline, in the API and in recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.samplers import SAMPLERS

MAX_IMAGES = 16  # in one request
MAX_SEED = 2**31 - 1  # browsers round integers above 2**53; this leaves room to count on from a seed


@dataclass(frozen=True)
class Setting:
    """One setting, of one of the kinds below; their `check` raises ValueError where a value cannot be used."""

    name: str  # in sentences
    label: str  # of its control
    id: str  # of its control's element, after the tab's name
    help: str  # one line for someone who never read the paper

    def nearest(self, value: Any) -> Any:
        """The value that can be used in place of a model's own."""
        return value


@dataclass(frozen=True)
class Number(Setting):
    """A number from `low` to `high`; a whole one where `step` is whole."""

    low: float
    high: float
    step: float = 1

    def nearest(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def check(self, value: Any) -> None:
        whole = isinstance(self.step, int)
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not self.low <= value <= self.high:  # NaN neither
            kind = "whole number" if whole else "number"
            low, high = (str(end) if whole else f"{end:g}" for end in (self.low, self.high))
            raise ValueError(f"The {self.name} must be a {kind} from {low} to {high}, not {value!r}.")


@dataclass(frozen=True)
class Choice(Setting):
    """One of a few: value -> what the page calls it."""

    options: Mapping[str, str]

    def check(self, value: Any) -> None:
        if not isinstance(value, str) or value not in self.options:
            raise ValueError(f"There is no {self.name} {value!r}: choose one of {', '.join(self.options)}.")


@dataclass(frozen=True)
class Switch(Setting):
    """On or off."""

    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"The {self.name} must be true or false, not {value!r}.")


SEED = Number(
    "seed",
    "Seed",
    "seed",
    "The noise to begin with: the same seed and settings give the same picture again.",
    0,
    MAX_SEED,
)
KEEP_SEED = Switch(
    "choice to keep the seed", "Keep the seed", "keep-seed", "Off: every run begins with a seed of its own."
)
NUM_IMAGES = Number("number of images", "Images", "count", "How many to draw; their seeds count up.", 1, MAX_IMAGES)
NUM_STEPS = Number(
    "number of steps",
    "Steps",
    "steps",
    "How often the model goes over the picture: more take longer, and change it less and less.",
    1,
    max(row.max_steps for row in SAMPLERS.values()),
)

SAMPLING: Mapping[str, Setting] = {
    # before the number of steps, which it bounds
    "sampler": Choice(
        "sampler",
        "Sampler",
        "sampler",
        "How the noise is taken away: dpm++ needs the fewest steps; ddpm, the paper's, adds fresh noise at each.",
        {name: name for name in SAMPLERS},
    ),
    "num_inference_steps": NUM_STEPS,
    "first_timestep": Number(
        "timestep of the first step",
        "First timestep",
        "first",
        "How noisy it begins: 999 is pure noise. A little lower, and a few steps lead nearer to the picture.",
        1,
        NUM_TIMESTEPS - 1,
    ),
    "guidance_scale": Number(
        "guidance scale",
        "Guidance scale",
        "scale",
        "How much the picture has to look like its class: higher is clearer and less varied; 1 is no guidance.",
        1.0,
        10.0,
        0.1,
    ),
    "guidance_power": Number(
        "guidance power",
        "Guidance power",
        "power",
        "When guidance sets in: higher is later; 0: from the first step.",
        0.0,
        8.0,
        0.01,
    ),
    "guidance_kind": Choice(
        "kind of guidance",
        "Guide away from",
        "kind",
        "The weaker picture that guidance leaves behind: without the class, with half of its parts hidden, or both.",
        {"class": "No class", "mask": "Half hidden", "both": "Both"},
    ),
    "guidance_high": Number(
        "timestep where guidance begins",
        "Guided from",
        "high",
        "At which noise: 999 is pure noise. Steps before it are not guided, and take half the time.",
        0,
        NUM_TIMESTEPS - 1,
    ),
    "guidance_low": Number(
        "timestep where guidance ends",
        "Guided until",
        "low",
        "Down to which noise: 0 is the finished picture. Steps after it are not guided, and take half the time.",
        0,
        NUM_TIMESTEPS - 1,
    ),
    "distilled": Switch(
        "choice of few-step weights",
        "Few-step weights",
        "distilled",
        "For models that have them: made for four steps without guidance, about five times as fast.",
    ),
    "skip_unconditional": Switch(
        "choice to skip passes",
        "Faster: no guidance where it does nothing",
        "skip",
        # measured on the shipped model, 25 dpm++ steps, one picture of each class: train/RESULTS.md
        "The model is asked once a step, not twice, where guidance is next to nothing (avatars: 0.02 of 255 apart).",
    ),
}


def steps_for(sampler: str) -> Number:
    """The number of steps, as many as a sampler takes."""
    return replace(NUM_STEPS, name=f"{NUM_STEPS.name} for {sampler}", high=SAMPLERS[sampler].max_steps)
