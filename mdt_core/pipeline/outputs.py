"""What a pipeline gives: every step of a stream, and the result of a call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from mdt_core.guidance import Guided
from mdt_core.pipeline.decoding import check_finite
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.samplers import Step

ToImages = Callable[[Tensor], list[Image.Image]]  # latents (N, C, h, w) -> pictures


@dataclass(frozen=True)
class PipelineStep:
    """One step of a stream. Previews are made when they are asked for: one that is not shown costs nothing."""

    index: int  # 0..total-1
    total: int
    timestep: int  # the training timestep the model was asked at, 999..0
    x_t: Tensor  # (N, C, h, w) the state after the step
    x_0: Tensor  # (N, C, h, w) the prediction of the clean latents
    seeds: list[int]  # one per image
    settings: SamplingSettings  # sampler, steps and guidance, those left to the model among them
    evaluations: int  # of the model, so far
    skipped: int  # evaluations of the weak branch left out so far
    images: list[Image.Image] | Tensor | None  # the result, on the last step
    to_preview: ToImages = field(repr=False)

    @cached_property
    def preview(self) -> list[Image.Image]:
        """The predicted clean images, by the linear preview."""
        return self.to_preview(self.x_0)

    @cached_property
    def noisy_preview(self) -> list[Image.Image]:
        """The noisy state itself, by the linear preview."""
        return self.to_preview(self.x_t)


@dataclass
class MDTPipelineOutput(BaseOutput):
    """What a call made."""

    images: list[Image.Image] | Tensor  # pictures, or latents (N, C, h, w) with output_type="latent"
    seeds: list[int]  # one per image: the same seed and settings give the same picture
    evaluations: int  # model evaluations of the batch, strong and weak branch counted each
    skipped: int  # evaluations of the weak branch left out because the guidance weight was near 1
    settings: SamplingSettings  # sampler, steps and guidance, those left to the model among them

    @classmethod
    def of(cls, steps: Iterable[PipelineStep]) -> "MDTPipelineOutput":
        """Run a stream to its end."""
        *_, last = steps
        return cls(last.images, last.seeds, last.evaluations, last.skipped, last.settings)


def pipeline_steps(
    steps: Iterable[Step],
    denoise: Guided,
    seeds: Sequence[int],
    settings: SamplingSettings,
    to_result: Callable[[Tensor], list[Image.Image] | Tensor],
    to_preview: ToImages,
) -> Iterator[PipelineStep]:
    """A sampler's steps with their counts, their previews and, on the last one, the result.

    Raises:
        ValueError: on the last step, where the model's latents or the autoencoder's pixels are not finite.
    """
    for step in steps:
        last = step.index + 1 == step.total
        images = to_result(check_finite(step.x_t, "the model's latents")) if last else None
        asked = list(seeds), settings, denoise.evaluations, denoise.skipped
        yield PipelineStep(step.index, step.total, step.timestep, step.x_t, step.x_0, *asked, images, to_preview)
