"""What the engine is asked for: a request within its ranges, checked where it is made, and how it becomes frames."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.engine.frames import Frame, evenly_spaced, frames_of
from mdt_core.guidance import guidance_weight
from mdt_core.samplers import SAMPLERS, sampling_timesteps

MAX_IMAGES = 16  # in one request
MAX_SEED = 2**31 - 1  # browsers round integers above 2**53; this leaves room to count on from a seed
GUIDANCE_SCALE = (1.0, 10.0)
GUIDANCE_POWER = (0.01, 8.0)
NOWHERE = -2  # an index that no model has
SKIP_TOLERANCE = 1e-2  # the unconditional pass is left out where the guidance weight is closer to 1 than this


@dataclass(frozen=True)
class Request:
    """What to draw: one class and one seed per image, and how. Raises ValueError where a value is out of range."""

    model: str  # a name in Engine.models
    class_labels: tuple[int | None, ...]  # None: no class, unconditional
    seeds: tuple[int, ...]
    guidance_scale: float = 3.8
    guidance_power: float = 4.0
    num_inference_steps: int = 25
    sampler: str = "dpm++"
    skip_unconditional: bool = True  # leave that pass out where the guidance weight is within SKIP_TOLERANCE of 1
    class_names: tuple[str | None, ...] | None = None  # what another model calls the classes, which numbers them

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_IMAGES:
            raise ValueError(f"The number of images must be 1 to {MAX_IMAGES}, not {len(self.seeds)}.")
        if len(self.class_labels) != len(self.seeds):
            raise ValueError(f"{len(self.class_labels)} classes were given for {len(self.seeds)} seeds: give one each.")
        if not isinstance(self.model, str):
            raise ValueError(f"A model is named by a text, not {self.model!r}.")
        for seed in self.seeds:
            check_whole("seed", seed, 0, MAX_SEED)
        check_number("guidance scale", self.guidance_scale, *GUIDANCE_SCALE)
        check_number("guidance power", self.guidance_power, *GUIDANCE_POWER)
        if not isinstance(self.skip_unconditional, bool):
            raise ValueError(
                f"Whether to skip unconditional passes must be true or false, not {self.skip_unconditional!r}."
            )
        if not isinstance(self.sampler, str) or self.sampler not in SAMPLERS:
            raise ValueError(f"There is no sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}.")
        check_whole(f"number of steps for {self.sampler}", self.num_inference_steps, 1, max_steps(self.sampler))

    @property
    def gpu_seconds(self) -> float:
        """An upper bound on a data-centre GPU: launches decide a step, images add to it."""
        return self.num_inference_steps * (0.04 + 0.005 * len(self.seeds))

    @property
    def skip_tolerance(self) -> float:
        """As the pipeline takes it."""
        return SKIP_TOLERANCE if self.skip_unconditional else 0.0

    @property
    def evaluations(self) -> list[int]:
        """Of the model at every step: 2 where it is guided, else 1."""
        weights = guidance_weights(self.sampler, self.num_inference_steps, self.guidance_scale, self.guidance_power)
        unconditional = all(label is None for label in self.class_labels)
        return [1 if unconditional or skips(weight, self.skip_tolerance) else 2 for weight in weights]

    def for_labels(self, labels: Mapping[int, str]) -> "Request":
        """The same for a model with these classes, found by name if names are given. ValueError where one lacks."""
        names, found = self.class_names or (None,) * len(self.class_labels), []
        for label, name in zip(self.class_labels, names, strict=True):
            found.append(class_named(label, name, labels))
            if found[-1] is not None and found[-1] not in labels:
                raise ValueError(f"{self.model} has no class {name or label!r}: pick its classes anew.")
        return replace(self, class_labels=tuple(found), class_names=None)

    def frames(self, pipe: Any, request_index: int = 0) -> Iterator[Frame]:
        """The run, step by step."""
        request = self.for_labels(pipe.id2label)

        def draw(step: Any) -> dict[str, list]:
            return {"x_0": step.preview, "x_t": step.noisy_preview}

        steps = pipe.stream(
            class_labels=list(request.class_labels),
            guidance_scale=request.guidance_scale,
            guidance_power=request.guidance_power,
            num_inference_steps=request.num_inference_steps,
            sampler=request.sampler,
            seeds=list(request.seeds),
            skip_tolerance=request.skip_tolerance,
        )
        return frames_of(steps, draw, request_index, self.evaluations, evenly_spaced(self.num_inference_steps))


def class_named(label: int | None, name: str | None, labels: Mapping[int, str]) -> int | None:
    """A class of another model among these: by index where the name agrees, else by name, or the NOWHERE of none."""
    if name is None or labels.get(label) == name:
        return label
    return next((index for index, known in labels.items() if known == name), NOWHERE)


def guidance_weights(
    sampler: str, num_inference_steps: int, guidance_scale: float, guidance_power: float
) -> list[float]:
    """The guidance weight of every step, from noise to image."""
    timesteps = sampling_timesteps(sampler, num_inference_steps)
    return [guidance_weight(t, guidance_scale, guidance_power).item() for t in timesteps]


def skips(weight: float, tolerance: float = SKIP_TOLERANCE) -> bool:
    """Whether a step of this guidance weight runs without the unconditional branch."""
    return abs(weight - 1) < tolerance


def max_steps(sampler: str) -> int:
    """The most steps that make sense with a sampler."""
    return SAMPLERS[sampler].max_steps


def counting(seed: int, count: int) -> tuple[int, ...]:
    """So many seeds from this one on; after the largest comes 0."""
    return tuple((seed + i) % (MAX_SEED + 1) for i in range(count))


def check_whole(what: str, value: Any, low: int, high: int) -> None:
    """ValueError unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"The {what} must be a whole number from {low} to {high}, not {value!r}.")


def check_number(what: str, value: Any, low: float, high: float) -> None:
    """ValueError unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"The {what} must be a number from {low:g} to {high:g}, not {value!r}.")
