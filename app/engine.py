"""The engine room: one model at a time behind a lock; a request becomes an iterator of frames.

Nothing here knows of the browser. A run is stopped by closing its iterator (the model is free again after the step in
hand); another model is used by naming it in the next request. A run may live in another process (app/zero.py).
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.frames import Frame, follow, kept_steps
from app.speed import Speeds
from app.zero import ON_ZERO_GPU, gpu
from mdt_core.acceleration import choose_dtype
from mdt_core.guidance import guidance_weight
from mdt_core.machine import choose_device
from mdt_core.opening import open_pipeline
from mdt_core.samplers import SAMPLERS, sampling_timesteps
from mdt_core.transformer import MDT

MAX_IMAGES = 16  # in one request
MAX_SEED = 2**31 - 1  # browsers round integers above 2**53; this leaves room to count on from a seed
GUIDANCE_SCALE = (1.0, 10.0)
GUIDANCE_POWER = (0.01, 8.0)
SKIP_TOLERANCE = 1e-2  # the unconditional pass is left out where the guidance weight is closer to 1 than this
WARM_SECONDS = 3.0  # of a timed warm-up that tell enough
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
    skip_unconditional: bool = True  # leave that pass out where the guidance weight is within SKIP_TOLERANCE of 1

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
        if self.sampler not in SAMPLERS:
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

    def frames(self, pipe: Any, job: int = 0) -> Iterator[Frame]:
        """The run, step by step."""

        def draw(steps: Sequence[Any]) -> dict[str, list]:
            return {
                "x_0": [image for step in steps for image in step.preview],
                "x_t": [image for step in steps for image in step.noisy_preview],
            }

        kept = kept_steps(self.num_inference_steps)
        return follow(streams(pipe, self), draw, job, self.evaluations, kept)


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
    dtype: str = "float32"

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
        dtype: str = "auto",
        compile: bool = False,
        load: Callable[[str], Any] = open_pipeline,
    ):
        self.models = models
        self.default = next(iter(self.models))
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, torch.device(self.device))
        self.compile = compile
        self.speeds = Speeds()
        self._load = load
        self._start = gpu(seconds_needed)(self._run)
        self._lock = threading.Lock()  # a Lock, not an RLock: a generator's steps run on changing threads
        self._visitors: set[object] = set()  # whose runs are going on or waiting
        self._name: str | None = None
        self._pipe: Any = None
        self._info: dict[str, ModelInfo] = {}
        self._warming: threading.Thread | None = None

    def check(self, name: str) -> None:
        """ValueError where there is no model of this name."""
        if name not in self.models:
            known = list(self.models)
            more = f" ({len(known) - 8} more)" if len(known) > 8 else ""
            raise ValueError(f"There is no model {name!r}: choose one of {', '.join(known[:8])}{more}.")

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

    def run(self, requests: Sequence[Request]) -> Iterator[Frame]:
        """Work through the requests, one frame per step; what each took is kept in `speeds`."""
        visitor = object()
        self._visitors.add(visitor)
        try:
            with closing(self._start(requests)) as frames:
                for frame in frames:
                    if frame.images and isinstance(requests[frame.job], Request):
                        self.note(requests[frame.job], frame)
                    yield frame
        finally:
            self._visitors.discard(visitor)

    def warm(self, name: str) -> None:
        """Draw a picture that nobody sees: a model's first steps are slow, and the later ones tell what others take.

        It ends where a model is slow enough to tell by then, and at once when somebody wants the engine.
        """
        if ON_ZERO_GPU or self._visitors:  # there, the GPU is for visitors' runs alone
            return
        timed = Request(name, (0,), (0,), num_inference_steps=10)
        # steps of both kinds, which compile and fill caches
        guided = replace(timed, num_inference_steps=1, skip_unconditional=False)
        unguided = replace(timed, num_inference_steps=1, class_labels=(None,))
        with closing(self._start((guided, unguided, timed))) as frames:
            for frame in frames:
                if self._visitors:
                    return
                if frame.job == 2 and (frame.images or frame.seconds > WARM_SECONDS):
                    self.note(timed, frame)
                    return

    def warm_in_background(self, name: str) -> None:
        """`warm` beside whatever else goes on."""
        self._warming = threading.Thread(target=self.warm, args=(name,), daemon=True)
        self._warming.start()

    def await_warm(self, seconds: float) -> None:
        """Return when the model in use is warm, or after so many seconds."""
        if self._warming:
            self._warming.join(seconds)

    def note(self, request: Request, frame: Frame) -> None:
        """Keep what a run took until this frame."""
        self.speeds.note(request.model, len(request.seeds), frame.evaluations, frame.seconds)

    def seconds(self, request: Request) -> float | None:
        """What a run will take on this machine, from what others took; None before the model's first."""
        return self.speeds.estimate(request.model, len(request.seeds), sum(request.evaluations))

    def _run(self, requests: Sequence[Request]) -> Iterator[Frame]:
        """As `run`. On ZeroGPU it works in another process."""
        with self._lock:
            for job, request in enumerate(requests):
                yield from request.frames(self._open(request.model), job)

    def _open(self, name: str) -> Any:
        """The pipeline of this name, loaded if another one is in memory. The lock is held."""
        if name != self._name:
            self.check(name)
            self._name = self._pipe = None  # let go of the old weights before the new ones come
            self._pipe = self._load(self.models[name]).to(self.device)
            self._pipe.optimize(dtype=self.dtype, compile=self.compile)
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
                dtype=str(self.dtype).removeprefix("torch."),
            )
        return self._pipe


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
            skip_tolerance=request.skip_tolerance,
        )
        for batch in batches
    ]


def guidance_weights(
    sampler: str, num_inference_steps: int, guidance_scale: float, guidance_power: float
) -> list[float]:
    """The guidance weight of every step, from noise to image."""
    timesteps = sampling_timesteps(sampler, num_inference_steps)
    return [guidance_weight(t, guidance_scale, guidance_power).item() for t in timesteps]


def skips(weight: float, tolerance: float = SKIP_TOLERANCE) -> bool:
    """Whether a step of this guidance weight runs without the unconditional branch."""
    return abs(weight - 1) < tolerance


def seconds_needed(requests: Sequence[Request]) -> float:
    """An upper bound of the seconds on a data-centre GPU, for ZeroGPU."""
    return min(20 + sum(request.gpu_seconds for request in requests), 120)


def max_steps(sampler: str) -> int:
    """The most steps that make sense with a sampler."""
    return SAMPLERS[sampler].max_steps


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
