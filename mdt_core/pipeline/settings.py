"""How a trajectory is run: sampler, steps and guidance, as published or as a model carries them in its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.guidance import Guidance
from mdt_core.samplers import sampling_timesteps


@dataclass(frozen=True)
class SamplingSettings(Guidance):
    """Sampler, steps and guidance, checked. The defaults are the published ones.

    Raises:
        ValueError: an entry is out of its range, or of another type.
    """

    sampler: str = "dpm++"  # a key of `samplers.SAMPLERS`
    num_inference_steps: int = 25  # 1 up to the sampler's most
    first_timestep: int = NUM_TIMESTEPS - 1  # where the steps begin, 1..999
    distilled: bool = False  # with the model's low-rank addition, made for few steps without guidance

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.distilled, bool):
            raise ValueError(f"distilled must be true or false, not {self.distilled!r}")
        if isinstance(self.num_inference_steps, bool) or not isinstance(self.num_inference_steps, Integral):
            raise ValueError(f"num_inference_steps must be a whole number, not {self.num_inference_steps!r}")
        sampling_timesteps(**self.trajectory)  # checks the others

    def but(self, **chosen: Any) -> "SamplingSettings":
        """The same with what is chosen, not None, in place of its own."""
        return replace(self, **{name: value for name, value in chosen.items() if value is not None})

    @property
    def in_words(self) -> str:
        """For a table, or a model's card."""
        guidance = f"guidance by {self.guidance_kind}, scale {self.guidance_scale:g}, power {self.guidance_power:g}"
        interval = f"timesteps {self.guidance_low} to {self.guidance_high}"
        start = "" if self.first_timestep == NUM_TIMESTEPS - 1 else f" from timestep {self.first_timestep}"
        weights = ", distilled weights" if self.distilled else ""
        return f"{self.num_inference_steps} steps of {self.sampler}{start}, {guidance}, {interval}{weights}"

    @property
    def evaluations(self) -> int:
        """How often the model is evaluated for a picture of a class."""
        return sum(2 if self.is_on(t) else 1 for t in sampling_timesteps(**self.trajectory))

    @property
    def arguments(self) -> dict[str, Any]:
        """All of them, as the pipeline takes them; of a subclass without what it adds."""
        return {field.name: getattr(self, field.name) for field in fields(SamplingSettings)}

    def changes_of(self, other: "SamplingSettings") -> dict[str, Any]:
        """The arguments in which another differs, as a preset lists them."""
        return {name: value for name, value in other.arguments.items() if value != self.arguments[name]}

    @property
    def trajectory(self) -> dict[str, Any]:
        """Sampler and steps, as `samplers.sample` and `inpainting.inpaint` take them."""
        return {name: getattr(self, name) for name in ("sampler", "num_inference_steps", "first_timestep")}

    @property
    def guidance(self) -> dict[str, Any]:
        """Its own part, as `guidance.guide` takes it."""
        return {field.name: getattr(self, field.name) for field in fields(Guidance)}


# A preset -> what it changes of "balanced", where a model carries no such preset of its own: `slow` is the paper's.
SAMPLING_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"sampler": "dpm++", "num_inference_steps": 10},
    "balanced": {},
    "slow": {"sampler": "ddpm", "num_inference_steps": 250},
}


def sampling_presets(entries: Mapping[str, Any] | None) -> dict[str, SamplingSettings]:
    """The settings of each preset for a model that carries these `sampling_defaults`.

    Args:
        entries: any fields of `SamplingSettings`, which are "balanced", the others as published; and under "presets"
            the names "fast" and "slow", each with the fields in which it differs from "balanced".

    Raises:
        ValueError: an entry is wrong, or there is none of its name.
    """
    entries = {} if entries is None else entries
    own = entries.get("presets", {}) if isinstance(entries, Mapping) else {}
    if not isinstance(own, Mapping) or set(own) - {"fast", "slow"}:
        raise ValueError(f'the presets in sampling_defaults are a dict with any of "fast" and "slow", not {own!r}')
    balanced = _replaced(SamplingSettings(), entries, "sampling_defaults", also=("presets",))
    changes = {**SAMPLING_PRESETS, **own}
    return {
        name: _replaced(balanced, changes[name], f'the preset "{name}" in sampling_defaults')
        for name in SAMPLING_PRESETS
    }


def _replaced(
    settings: SamplingSettings, entries: Mapping[str, Any], name: str, also: tuple[str, ...] = ()
) -> SamplingSettings:
    """Settings with these entries in place of their own; `name` is what an error calls them."""
    names = [field.name for field in fields(SamplingSettings)]
    if not isinstance(entries, Mapping) or set(entries) - {*names, *also}:
        raise ValueError(f"{name} is a dict with any of {', '.join([*names, *also])}, not {entries!r}")
    try:
        return replace(settings, **{key: value for key, value in entries.items() if key in names})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
