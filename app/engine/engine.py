"""The engine: one model at a time behind a lock; a request becomes an iterator of frames.

Nothing here knows of the browser. A run is stopped by closing its iterator (the model is free again after the step in
hand); another model is used by naming it in the next request. A run may live in another process (zero_gpu.py).
Where several visitors want it, each waits in `turns` before the run.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from app.engine.frames import Frame
from app.engine.model_info import ModelInfo, describe_pipeline, version_of
from app.engine.request import Label, Request, label_of
from app.engine.speed import Speeds
from app.engine.turns import Turns
from app.engine.zero_gpu import ON_ZERO_GPU, gpu
from mdt_core.acceleration.machine import choose_device
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.pipeline.labels import parse_label
from mdt_core.pipeline.open import open_pipeline

WARM_SECONDS = 3.0  # of a timed warm-up that tell enough
LENT_SECONDS = 120.0  # that ZeroGPU lends its GPU for at most
log = logging.getLogger("mdt-studio")


class Engine:
    """Holds the models that can be used by name and the one that is in memory.

    Args:
        models: name -> location; it is looked into at every use, so it may grow.
        load: a location -> pipeline.
        turns: of the visitors.
        longest_run: how many steps a run may have, each picture's counted; None: any number.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        device: str | None = None,
        dtype: str = "auto",
        compile: bool = False,
        load: Callable[[str], Any] = open_pipeline,
        turns: Turns | None = None,
        longest_run: int | None = None,
    ):
        self.models = models
        self.default = next(iter(self.models))
        self.device = choose_device(device)
        choose_dtype(dtype, torch.device(self.device))  # refused now, not when a model is opened
        self.dtype = dtype
        self.compile = compile
        self.speeds = Speeds()
        self.turns = turns or Turns()
        self.longest_run = longest_run
        self._load = load
        self._start = gpu(seconds_needed)(self._run)
        self._lock = threading.Lock()  # a Lock, not an RLock: a generator's steps run on changing threads
        self._reading = threading.Lock()  # one model at a time is read: each takes its memory
        if ON_ZERO_GPU:  # a worker may be forked while another visitor holds it
            os.register_at_fork(after_in_child=lambda: setattr(self, "_lock", threading.Lock()))
        self._visitors: set[object] = set()  # whose runs are going on or waiting
        self._name: str | None = None
        self._version: int | None = None
        self._pipe: Any = None
        self._info: dict[str, tuple[int, ModelInfo]] = {}  # name -> version of its files, and what it is
        self._warming: threading.Thread | None = None

    def locate(self, name: str) -> str:
        """Where the model of this name lies. ValueError where there is none."""
        location = self.models.get(name) if isinstance(name, str) else None
        if location is None:
            names = list(self.models)
            more = f" ({len(names) - 8} more)" if len(names) > 8 else ""
            raise ValueError(f"There is no model {name!r}: choose one of {', '.join(names[:8])}{more}.")
        return location

    def find(self, name: Any, otherwise: str) -> str:
        """The model of this name, which may come from a stranger's file; `otherwise` where there is none."""
        return name if isinstance(name, str) and name in self.models else otherwise

    def describe(self, name: str) -> ModelInfo:
        """What there is to know of a model; reads it if it never was, or if its files have changed since.

        An idle engine opens it. A run that goes on is not waited for, and keeps its model in memory: then the other one
        is read beside it and let go of again. ValueError where there is no such model or it cannot be read.
        """
        info = self._current_info(name)
        if info is None:
            with self._reading:
                info = self._current_info(name) or self._read(name)  # somebody else may have asked for it meanwhile
        return info

    def class_label(self, name: str, label: int | str | None) -> Label:
        """A class by number or name, or a mix, as `parse_label` reads them; None and "" are no class.

        ValueError where there is no such class.
        """
        if label in (None, ""):
            return None
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"A class is given by its number or its name, not by {label!r}.")
        labels = self.describe(name).labels
        return label_of(parse_label(label, labels) if isinstance(label, str) else label, labels)

    def run(self, requests: Sequence[Request]) -> Iterator[Frame]:
        """Work through the requests, one frame per step; what each took is kept in `speeds`."""
        self.check_time(requests)
        visitor = object()
        self._visitors.add(visitor)
        try:
            with closing(self._start(requests)) as frames:
                for frame in frames:
                    if frame.images:
                        self.record_time(requests[frame.request_index], frame)
                    yield frame
        finally:
            self._visitors.discard(visitor)

    @contextmanager
    def lent(self, name: str) -> Iterator[Any]:
        """The pipeline of this name, for what is no run; nobody else uses it meanwhile. ValueError as of `describe`."""
        visitor = object()
        self._visitors.add(visitor)
        try:
            with self._lock:
                yield self._open(name)
        finally:
            self._visitors.discard(visitor)

    def warm(self, name: str) -> None:
        """Draw a picture that nobody sees: a model's first steps are slow, and the later ones tell what others take.

        It ends where a model is slow enough to tell by then, and at once when somebody wants the engine.
        """
        if ON_ZERO_GPU or self._visitors:  # there, the GPU is for visitors' runs alone
            return
        timed = Request(name, (0,), (0,), num_inference_steps=10)
        batch = replace(timed, class_labels=(0,) * 4, seeds=(0,) * 4)  # takes less than four single pictures
        # steps of both kinds, which compile and fill caches
        guided = replace(timed, num_inference_steps=1, skip_unconditional=False)
        unguided = replace(timed, num_inference_steps=1, class_labels=(None,))
        info = self.describe(name)
        merged = [replace(guided, **info.presets["fast"])] if info.distilled else []  # which makes weights of its own
        requests = (guided, unguided, *merged, timed, batch)
        with closing(self._start(requests)) as frames:
            for frame in frames:
                if self._visitors:
                    return
                told = requests[frame.request_index] in (timed, batch)
                if told and (frame.images or frame.seconds > WARM_SECONDS):
                    self.record_time(requests[frame.request_index], frame)
                    if not frame.images:
                        return

    def warm_in_background(self, name: str) -> None:
        """`warm` beside whatever else goes on. A model that cannot be warmed is told of by the run that asks for it."""

        def warm() -> None:
            try:
                self.warm(name)
            except Exception as error:  # the model may be gone by now, or too large for the machine
                log.debug("%s was not warmed up: %s", name, error)

        self._warming = threading.Thread(target=warm, daemon=True)
        self._warming.start()

    @property
    def warming(self) -> bool:
        """Whether `warm_in_background` is at work."""
        return self._warming is not None and self._warming.is_alive()

    def record_time(self, request: Request, frame: Frame) -> None:
        """Keep what a request took until this frame, by its model and its kind."""
        self.speeds.record((request.model, request.kind), len(request.seeds), frame.evaluations, frame.seconds)

    def check_time(self, requests: Sequence[Request]) -> None:
        """ValueError where a run has more steps than it may, or takes longer than ZeroGPU lends its GPU for."""
        steps = sum(len(request.seeds) * len(request.evaluations) for request in requests)
        if self.longest_run is not None and steps > self.longest_run:
            raise ValueError(
                f"This run has {steps:,} steps, each picture's counted; {self.longest_run:,} are the most here: "
                "ask for fewer steps or pictures."
            )
        if ON_ZERO_GPU and (seconds := seconds_needed(requests)) > LENT_SECONDS:
            raise ValueError(
                f"This may take {seconds:.0f} s on the GPU, which is lent for {LENT_SECONDS:.0f} s at most: "
                "ask for fewer steps or pictures."
            )

    def seconds(self, request: Request) -> float | None:
        """What a request will take on this machine, as others of its model did, of its kind if any; None before."""
        of_kinds = (
            self.speeds.estimate((request.model, kind), len(request.seeds), sum(request.evaluations))
            for kind in (request.kind, Request.kind)
        )
        return next((seconds for seconds in of_kinds if seconds is not None), None)

    def _run(self, requests: Sequence[Request]) -> Iterator[Frame]:
        """As `run`. On ZeroGPU it works in another process."""
        with self._lock:
            for i, request in enumerate(requests):
                yield from request.frames(self._open(request.model), i)

    def _open(self, name: str) -> Any:
        """The pipeline of this name, loaded if another one is in memory, or another's files. The lock is held."""
        if name == self._name and name not in self.models:
            return self._pipe  # a checkpoint that training has replaced since: it stays for as long as it is in memory
        location = self.locate(name)
        version = version_of(location)
        if (name, version) != (self._name, self._version):
            self._name = self._pipe = None  # let go of the old weights before the new ones come
            pipe = self._load(location)
            self._read_info(name, version, pipe)
            self._pipe = pipe.to(self.device)
            self._pipe.optimize(dtype=self.dtype, compile=self.compile)
            self._pipe.set_progress_bar_config(disable=True)
            self._name, self._version = name, version
        return self._pipe

    def _current_info(self, name: str) -> ModelInfo | None:
        """What is known of a model, unless its files have changed since. ValueError where there never was one."""
        if not isinstance(name, str) or name not in self._info:
            self.locate(name)
            return None
        (version, info), location = self._info[name], self.models.get(name)
        return info if location is None or version == version_of(location) else None  # of one that is gone: what it was

    def _read(self, name: str) -> ModelInfo:
        """Open a model, or where another one has to stay in memory, look into it beside that one."""
        # On ZeroGPU this process keeps its first model, ready for the workers; a worker opens any other itself.
        stays = ON_ZERO_GPU and self._pipe is not None
        if stays or not self._lock.acquire(blocking=False):
            location = self.locate(name)
            return self._read_info(name, version_of(location), self._load(location))
        try:
            self._open(name)
            return self._info[name][1]
        finally:
            self._lock.release()

    def _read_info(self, name: str, version: int, pipe: Any) -> ModelInfo:
        info = describe_pipeline(name, pipe, self.device, self.dtype)
        self._info[name] = version, info
        return info


def seconds_needed(requests: Sequence[Request]) -> float:
    """An upper bound of the seconds on a data-centre GPU, for ZeroGPU."""
    return 20 + sum(request.gpu_seconds for request in requests)
