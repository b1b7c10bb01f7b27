"""A stand-in for MDTPipeline where a test is about the app: same interface, a few milliseconds a step.

Every picture depends on its class, seed and settings alone, and its steps go from noise to a smooth gradient.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from app.engine.engine import Engine
from app.engine.request import Request
from mdt_core.guidance import Guidance
from mdt_core.pipeline.settings import sampling_presets
from mdt_core.samplers import sampling_timesteps

LABELS = {0: "circle", 1: "square", 2: "golden retriever", 3: "star <b>"}


@dataclass
class StandInStep:
    index: int
    total: int
    timestep: int
    skipped: int
    evaluations: int
    preview: list[Image.Image]
    noisy_preview: list[Image.Image]
    images: list[Image.Image] | None


class StandInPipeline:
    """`seconds`: how long a step takes. `log`: what happened, for tests of cancelling and queueing."""

    image_size = 32
    latent_shape = (4, 8, 8)
    device = torch.device("cpu")

    def __init__(self, labels: dict[int, str] | None = None, seconds: float = 0.005):
        self.id2label = labels or LABELS
        self.num_classes = len(self.id2label)
        self.transformer = torch.nn.Linear(4, 4)
        self.transformer.config = SimpleNamespace(hidden_size=4, patch_size=2)
        self.sampling_presets = sampling_presets(None)
        self.seconds = seconds
        self.log: list[str] = []
        self.drawn: list[tuple[float, int]] = []  # guidance scale and steps of what was drawn to its end

    def to(self, *_: object) -> "StandInPipeline":
        return self

    def optimize(self, **_: object) -> None: ...

    def set_progress_bar_config(self, **_: object) -> None: ...

    def class_index(self, label: int | str) -> int:
        index = int(label) if str(label).lstrip("-").isdigit() else list(self.id2label.values()).index(label)
        if index not in self.id2label:
            raise ValueError(f"class {index} is out of range: this model has classes 0 to {self.num_classes - 1}")
        return index

    def stream(
        self,
        class_labels: list[int | dict | None],
        guidance_scale: float,
        guidance_power: float,
        guidance_kind: str,
        guidance_low: int,
        guidance_high: int,
        num_inference_steps: int,
        sampler: str,
        seeds: list[int],
        skip_tolerance: float,
        first_timestep: int = 999,
        distilled: bool = False,
        latents: torch.Tensor | None = None,
    ) -> Iterator[StandInStep]:
        guidance = Guidance(guidance_scale, guidance_power, guidance_kind, guidance_low, guidance_high)
        settings = guidance_scale * 7 + guidance_power
        finals = [self._gradient(label, seed, settings) for label, seed in zip(class_labels, seeds, strict=True)]
        if latents is not None:
            finals = [final + 9 * start.flatten()[0].item() for final, start in zip(finals, latents, strict=True)]
        noises = [np.random.default_rng(seed).uniform(0, 255, (32, 32, 3)) for seed in seeds]
        timesteps = sampling_timesteps(sampler, num_inference_steps, first_timestep)
        skipped = 0
        self.log.append("start")
        try:
            for index, t in enumerate(timesteps):
                time.sleep(self.seconds)
                skipped += not guidance.is_on(t, skip_tolerance)
                done = (index + 1) / num_inference_steps
                last = index + 1 == num_inference_steps
                self.log.append(f"step {index}")
                if last:
                    self.drawn.append((guidance_scale, num_inference_steps))
                yield StandInStep(
                    index=index,
                    total=num_inference_steps,
                    timestep=t,
                    skipped=skipped,
                    evaluations=2 * (index + 1) - skipped,
                    preview=[to_image(done * f + (1 - done) * 128) for f in finals],
                    noisy_preview=[to_image(done * f + (1 - done) * n) for f, n in zip(finals, noises, strict=True)],
                    images=[to_image(f) for f in finals] if last else None,
                )
        finally:
            self.log.append("closed")

    def _gradient(self, label: int | dict | None, seed: int, settings: float) -> np.ndarray:
        if isinstance(label, dict):
            return sum(weight * self._gradient(each, seed, settings) for each, weight in label.items())
        rng = np.random.default_rng([seed, 0 if label is None else label + 1, int(settings * 1000)])
        ramp = np.linspace(0, 255, 32)[:, None, None]
        return np.abs(ramp - rng.uniform(0, 255, (1, 32, 3)))


def draw(engine: Engine, request: Request) -> list[Image.Image]:
    """The images of one request, when they are finished."""
    *_, last = engine.run((request,))
    return last.images


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
