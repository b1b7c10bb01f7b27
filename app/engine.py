"""The engine room: one model at a time behind a lock; a request becomes an iterator of frames.

Nothing here knows of the browser. A run is stopped by closing its iterator (the model is free again after the step in
hand); another model is used by naming it in the next request. Frames hold PIL images and numbers only, so that a run
may live in another process (app/zero.py).
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from app.zero import gpu
from mdt_core.guidance import guidance_weight
from mdt_core.opening import open_pipeline
from mdt_core.samplers import SAMPLERS, sampling_timesteps
from mdt_core.transformer import MDT

MAX_IMAGES = 16  # in one request
MAX_SEED = 2**31 - 1  # browsers round integers above 2**53; this leaves room to count on from a seed
GUIDANCE_SCALE = (1.0, 10.0)
GUIDANCE_POWER = (0.01, 8.0)
SKIP_TOLERANCE = 1e-2  # the unconditional pass is left out where the guidance weight is closer to 1 than this
PREVIEW_SECONDS = 0.12  # between two previews: what a browser shows without stutter
MAX_KEPT = 50  # steps of a trajectory that get a preview however fast they pass
LARGE_MODEL = 100e6  # parameters; above this a CPU is slow enough to suggest fewer steps


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

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_IMAGES:
            raise ValueError(f"The number of images must be 1 to {MAX_IMAGES}, not {len(self.seeds)}.")
        if len(self.class_labels) != len(self.seeds):
            raise ValueError(f"{len(self.class_labels)} classes were given for {len(self.seeds)} seeds: give one each.")
        for seed in self.seeds:
            check_whole("seed", seed, 0, MAX_SEED)
        check_number("guidance scale", self.guidance_scale, *GUIDANCE_SCALE)
        check_number("guidance power", self.guidance_power, *GUIDANCE_POWER)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"There is no sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}.")
        check_whole(f"number of steps for {self.sampler}", self.num_inference_steps, 1, max_steps(self.sampler))

    @property
    def seconds(self) -> float:
        """An upper bound on a data-centre GPU: launches decide a step, images add to it."""
        return self.num_inference_steps * (0.04 + 0.005 * len(self.seeds))

    def frames(self, pipe: Any, job: int = 0) -> Iterator["Frame"]:
        """The run, step by step."""
        return frames(pipe, self, job)


@dataclass(frozen=True)
class Frame:
    """One step of a run."""

    job: int  # which of the requests
    index: int  # of the step, from 0
    total: int  # steps of this request
    seconds_per_step: float
    seconds_left: float  # of this request
    skipped: int  # steps so far that needed no unconditional evaluation
    kept: bool  # belongs to the trajectory that can be looked through afterwards
    x_0: list[Image.Image] | None = None  # previews of the predicted image; None on a step that passed too quickly
    x_t: list[Image.Image] | None = None  # previews of the noisy state
    images: list[Image.Image] | None = None  # the result, on the last step


@dataclass(frozen=True)
class ModelInfo:
    """What the page shows of a model."""

    name: str
    architecture: str  # "MDTv2"
    parameters: int
    labels: dict[int, str]
    image_size: int  # pixels
    cells: int  # latent cells along a side
    masked_pass: bool  # whether it has a side-interpolator
    device: str  # "cpu", "cuda"

    @property
    def slow(self) -> bool:
        """Whether few steps should be suggested."""
        return self.device == "cpu" and self.parameters > LARGE_MODEL


class Engine:
    """Holds the models that can be used by name and the one that is in memory.

    `models`: name -> location; it is looked into at every use, so it may grow. `load`: a location -> pipeline.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        device: str | None = None,
        load: Callable[[str], Any] = open_pipeline,
    ):
        self.models = models
        self.default = next(iter(self.models))
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device:
            check_device(device)
        self.run = gpu(seconds_needed)(self._run)
        self._load = load
        self._lock = threading.Lock()  # a Lock, not an RLock: a generator's steps run on changing threads
        self._name: str | None = None
        self._pipe: Any = None
        self._info: dict[str, ModelInfo] = {}

    def find(self, name: Any, otherwise: str) -> str:
        """The model of this name, which may come from a stranger's file; `otherwise` where there is none."""
        return name if isinstance(name, str) and name in self.models else otherwise

    def describe(self, name: str) -> ModelInfo:
        """What there is to know of a model; loads it if it never was."""
        if name not in self._info:
            with self._lock:
                self._open(name)
        return self._info[name]

    def class_index(self, name: str, label: int | str) -> int:
        """The index of a class that is given by index or name. ValueError where the model has no such class."""
        with self._lock:
            return self._open(name).class_index(label)

    def _run(self, requests: Sequence[Request]) -> Iterator[Frame]:
        """Work through the requests, one frame per step. Reach it as `run`, which asks ZeroGPU for a GPU first."""
        with self._lock:
            for job, request in enumerate(requests):
                yield from request.frames(self._open(request.model), job)

    def _open(self, name: str) -> Any:
        """The pipeline of this name, loaded if another one is in memory. The lock is held."""
        if name != self._name:
            if name not in self.models:
                known = list(self.models)
                more = f" ({len(known) - 8} more)" if len(known) > 8 else ""
                raise ValueError(f"There is no model {name!r}: choose one of {', '.join(known[:8])}{more}.")
            self._name = self._pipe = None  # let go of the old weights before the new ones come
            self._pipe = self._load(self.models[name]).to(self.device)
            self._pipe.set_progress_bar_config(disable=True)
            self._name = name
            self._info[name] = ModelInfo(
                name=name,
                architecture=type(self._pipe.transformer).__name__,
                parameters=sum(p.numel() for p in self._pipe.transformer.parameters()),
                labels=dict(self._pipe.id2label),
                image_size=self._pipe.image_size,
                cells=self._pipe.latent_shape[-1],
                masked_pass=isinstance(self._pipe.transformer, MDT),
                device=self.device,
            )
        return self._pipe


def frames(pipe: Any, request: Request, job: int = 0) -> Iterator[Frame]:
    """One request as frames. Previews are drawn for the kept steps, and else no more often than a browser can show."""
    kept = kept_steps(request.num_inference_steps)
    costs = branches(request)
    start = shown = time.perf_counter()
    for steps in zip(*streams(pipe, request), strict=True):
        now = time.perf_counter()
        index, total = steps[0].index, steps[0].total
        frame = Frame(
            job=job,
            index=index,
            total=total,
            seconds_per_step=(now - start) / (index + 1),
            seconds_left=(now - start) / sum(costs[: index + 1]) * sum(costs[index + 1 :]),
            skipped=max(step.skipped for step in steps),
            kept=index in kept,
            images=[image for step in steps for image in step.images] if index + 1 == total else None,
        )
        if frame.kept or now - shown >= PREVIEW_SECONDS:
            x_0 = [image for step in steps for image in step.preview]
            x_t = [image for step in steps for image in step.noisy_preview]
            frame = replace(frame, x_0=x_0, x_t=x_t)
            shown = now
        yield frame


def streams(pipe: Any, request: Request) -> list[Iterator[Any]]:
    """The pipeline's streams that make a request's images: one batch, or on a CPU one image each, to run in lockstep.

    A CPU's matrix kernels round by the size of the batch. Alone, a picture made again from its recipe has the same
    pixels whatever batch it came from; that costs a quarter of the speed there, and would cost most of it on a GPU.
    """
    count = len(request.seeds)
    batches = [slice(i, i + 1) for i in range(count)] if pipe.device.type == "cpu" else [slice(count)]
    return [
        pipe.stream(
            class_labels=list(request.class_labels[batch]),
            guidance_scale=request.guidance_scale,
            guidance_power=request.guidance_power,
            num_inference_steps=request.num_inference_steps,
            sampler=request.sampler,
            seeds=list(request.seeds[batch]),
            skip_tolerance=SKIP_TOLERANCE,
        )
        for batch in batches
    ]


def guidance_weights(
    sampler: str, num_inference_steps: int, guidance_scale: float, guidance_power: float
) -> list[float]:
    """The guidance weight of every step, from noise to image."""
    timesteps = sampling_timesteps(sampler, num_inference_steps)
    return [guidance_weight(t, guidance_scale, guidance_power).item() for t in timesteps]


def skips(weight: float) -> bool:
    """Whether a step of this guidance weight runs without the unconditional branch."""
    return abs(weight - 1) < SKIP_TOLERANCE


def branches(request: Request) -> list[int]:
    """The model evaluations of every step: 2 where it is guided, else 1."""
    weights = guidance_weights(
        request.sampler, request.num_inference_steps, request.guidance_scale, request.guidance_power
    )
    unconditional = all(label is None for label in request.class_labels)
    return [1 if unconditional or skips(weight) else 2 for weight in weights]


def kept_steps(total: int, most: int = MAX_KEPT) -> frozenset[int]:
    """At most `most` of `total` steps, evenly spread, the first and the last among them."""
    if total <= most:
        return frozenset(range(total))
    return frozenset(round(i * (total - 1) / (most - 1)) for i in range(most))


def seconds_needed(requests: Sequence[Request]) -> float:
    """An upper bound of the seconds on a data-centre GPU, for ZeroGPU."""
    return min(20 + sum(request.seconds for request in requests), 120)


def max_steps(sampler: str) -> int:
    """The most steps that make sense with a sampler."""
    return SAMPLERS[sampler].max_steps


def check_device(device: str) -> None:
    """ValueError where a device is unknown or not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The device {device!r} cannot be used here: {reason}") from error


def check_whole(what: str, value: Any, low: int, high: int) -> None:
    """ValueError unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"The {what} must be a whole number from {low} to {high}, not {value!r}.")


def check_number(what: str, value: Any, low: float, high: float) -> None:
    """ValueError unless `value` is a number in [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise ValueError(f"The {what} must be a number from {low:g} to {high:g}, not {value!r}.")
