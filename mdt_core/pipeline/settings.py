"""How a trajectory is run: sampler, steps and guidance, as published or as a model carries them in its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

from mdt_core.guidance import check_guidance
from mdt_core.samplers import find_sampler


@dataclass(frozen=True)
class SamplingSettings:
    """Sampler, steps and guidance, checked. The defaults are the published ones.

    Raises:
        ValueError: an entry is out of its range, or of another type.
    """

    sampler: str = "dpm++"  # a key of `samplers.SAMPLERS`
    num_inference_steps: int = 25  # 1 up to the sampler's most
    guidance_scale: float = 3.8  # w, at least 0
    guidance_power: float = 4.0  # s, at least 0

    def __post_init__(self):
        if isinstance(self.num_inference_steps, bool) or not isinstance(self.num_inference_steps, Integral):
            raise ValueError(f"num_inference_steps must be a whole number, not {self.num_inference_steps!r}")
        find_sampler(self.sampler, self.num_inference_steps)
        check_guidance(self.guidance_scale, self.guidance_power)

    @classmethod
    def of_model(cls, entries: Mapping[str, Any] | None) -> "SamplingSettings":
        """The settings of a model that carries these entries; the others are as published.

        Raises:
            ValueError: an entry is wrong, or there is none of its name.
        """
        entries, names = entries or {}, [field.name for field in fields(cls)]
        if not isinstance(entries, Mapping) or set(entries) - set(names):
            raise ValueError(f"sampling_defaults is a dict with any of {', '.join(names)}, not {entries!r}")
        try:
            return cls(**entries)
        except ValueError as error:
            raise ValueError(f"sampling_defaults: {error}") from error

    def but(
        self,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
    ) -> "SamplingSettings":
        """The same with what is given, not None, in place of its own."""
        given = zip(asdict(self).items(), (sampler, num_inference_steps, guidance_scale, guidance_power), strict=True)
        return SamplingSettings(**{name: own if new is None else new for (name, own), new in given})

    @property
    def trajectory(self) -> dict[str, Any]:
        """Sampler and steps, as `samplers.sample` and `inpainting.inpaint` take them."""
        return {"sampler": self.sampler, "num_inference_steps": self.num_inference_steps}

    @property
    def guidance(self) -> dict[str, float]:
        """Scale and power, as `guidance.guide` takes them."""
        return {"guidance_scale": self.guidance_scale, "guidance_power": self.guidance_power}
