"""What the engine is asked for: a request, checked where it is made, and how it becomes frames."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeVar

from app.engine.frames import Frame, evenly_spaced, frames_of
from app.engine.model_info import ModelInfo
from app.engine.settings import MAX_SEED, NUM_IMAGES, SAMPLING, SEED, Number, Setting, steps_for
from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.guidance import SKIP_TOLERANCE, Guidance
from mdt_core.pipeline.labels import ClassLabel, ClassMix, class_weights
from mdt_core.samplers import sampling_timesteps

Mix = tuple[tuple[int | None, float], ...]  # of classes, and how much of each: an image is drawn of the sum of all
Label = int | Mix | None  # a class, a mix of classes, or None: no class, unconditional
NOWHERE = -2  # an index that no model has


@dataclass(frozen=True)
class Request:
    """What to draw: one label and one seed per image, and how. Raises ValueError where a value cannot be used."""

    model: str  # a name in Engine.models
    class_labels: tuple[Label, ...]
    seeds: tuple[int, ...]
    guidance_scale: float = 3.8
    guidance_power: float = 4.0
    num_inference_steps: int = 25
    sampler: str = "dpm++"
    first_timestep: int = NUM_TIMESTEPS - 1
    guidance_kind: str = "class"
    guidance_low: int = 0
    guidance_high: int = NUM_TIMESTEPS - 1
    distilled: bool = False
    skip_unconditional: bool = True  # leave the weak pass out where the guidance weight is within SKIP_TOLERANCE of 1
    # what another model calls the classes, which numbers them; of a mix a tuple
    class_names: tuple[str | tuple[str | None, ...] | None, ...] | None = None

    kind: ClassVar[str] = "generate"  # of its recipes
    settings: ClassVar[Mapping[str, Setting]] = SAMPLING  # a field of this class -> what it may be
    count: ClassVar[Number] = NUM_IMAGES

    def __post_init__(self) -> None:
        self.count.check(len(self.seeds))
        if len(self.class_labels) != len(self.seeds):
            raise ValueError(f"{len(self.class_labels)} classes were given for {len(self.seeds)} seeds: give one each.")
        if not isinstance(self.model, str):
            raise ValueError(f"A model is named by a text, not {self.model!r}.")
        for seed in self.seeds:
            SEED.check(seed)
        for key, setting in self.settings.items():
            if key == "num_inference_steps":
                setting = steps_for(self.sampler)
            setting.check(getattr(self, key))

    @classmethod
    def first(cls, info: ModelInfo) -> Self:
        """What a page begins with: one image of no class, with the model's own settings."""
        return cls(info.name, (None,), (0,), **info.sampling_defaults)

    @property
    def gpu_seconds(self) -> float:
        """An upper bound on a data-centre GPU: launches decide a step, images add to it."""
        return len(self.evaluations) * (0.04 + 0.005 * self.batch_size)

    @property
    def batch_size(self) -> int:
        """Images that are drawn together."""
        return len(self.seeds)

    @property
    def skip_tolerance(self) -> float:
        """As the pipeline takes it."""
        return SKIP_TOLERANCE if self.skip_unconditional else 0.0

    @property
    def evaluations(self) -> list[int]:
        """Of the model at every step: 2 where it is guided, else 1."""
        unguided = self.guidance_kind == "class" and all(label is None for label in self.class_labels)
        timesteps = sampling_timesteps(**self.trajectory)
        return [1 if unguided or not self.guidance.is_on(t, self.skip_tolerance) else 2 for t in timesteps]

    @property
    def trajectory(self) -> dict[str, Any]:
        """Sampler and steps, as `mdt_core.samplers` takes them."""
        return {key: getattr(self, key) for key in ("sampler", "num_inference_steps", "first_timestep")}

    @property
    def guidance(self) -> Guidance:
        """How strongly, away from what, and when it is guided: between its two timesteps, whichever is the higher."""
        given = {each.name: getattr(self, each.name) for each in fields(Guidance)}
        low, high = sorted([self.guidance_low, self.guidance_high])
        return Guidance(**given | {"guidance_low": low, "guidance_high": high})

    @property
    def pipeline_arguments(self) -> dict[str, Any]:
        """What the pipeline's `stream` and `stream_inpaint` both take."""
        return {
            "class_labels": [dict(label) if isinstance(label, tuple) else label for label in self.class_labels],
            "seeds": list(self.seeds),
            **self.trajectory,
            **asdict(self.guidance),
            "distilled": self.distilled,
            "skip_tolerance": self.skip_tolerance,
        }

    def for_labels(self, labels: Mapping[int, str]) -> Self:
        """The same for a model with these classes, found by name if names are given. ValueError where one lacks."""
        names = self.class_names or (None,) * len(self.class_labels)
        found = tuple(self._find(label, name, labels) for label, name in zip(self.class_labels, names, strict=True))
        return replace(self, class_labels=found, class_names=None)

    def _find(self, label: Any, name: Any, labels: Mapping[int, str]) -> Any:
        """A class by its name, in a mix each of its classes."""
        if isinstance(label, tuple):
            parts = zip(label, name or (None,) * len(label), strict=True)
            return tuple((self._find(index, each, labels), weight) for (index, weight), each in parts)
        index = class_named(label, name, labels)
        if index is not None and index not in labels:
            raise ValueError(f"{self.model} has no class {name or label!r}: pick its classes anew.")
        return index

    def frames(self, pipe: Any, request_index: int = 0) -> Iterator[Frame]:
        """The run, step by step."""
        request = self.for_labels(pipe.id2label)

        def draw(step: Any) -> dict[str, list]:
            return {"x_0": step.preview, "x_t": step.noisy_preview}

        steps = pipe.stream(**request.pipeline_arguments)
        return frames_of(steps, draw, request_index, self.evaluations, evenly_spaced(self.num_inference_steps))


AnyRequest = TypeVar("AnyRequest", bound=Request)  # one to draw or one to inpaint


def label_of(label: ClassLabel | ClassMix, labels: Mapping[int, str]) -> Label:
    """A class or a mix of a model with these classes, as a request has it. ValueError as of `class_weights`."""
    weights = class_weights(label, labels)
    mix = tuple((None if index == len(labels) else index, weight) for index, weight in weights.items())
    return mix if len(mix) > 1 else mix[0][0]


def class_named(label: int | None, name: str | None, labels: Mapping[int, str]) -> int | None:
    """A class of another model among these: by index where the name agrees, else by name, or the NOWHERE of none."""
    if name is None or labels.get(label) == name:
        return label
    return next((index for index, own_name in labels.items() if own_name == name), NOWHERE)


def counting(seed: int, count: int) -> tuple[int, ...]:
    """So many seeds from this one on; after the largest comes 0."""
    return tuple((seed + i) % (MAX_SEED + 1) for i in range(count))
