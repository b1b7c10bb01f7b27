"""A pipeline's steps and results, and how its latents become pictures: by the autoencoder, or a linear preview."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from mdt_core.autoencoder import decode, encode, fit_preview, pixel_block, preview
from mdt_core.pipeline.image_arrays import to_uint8
from mdt_core.samplers import generators, initial_latents


@dataclass
class MDTPipelineOutput(BaseOutput):
    """What a call made."""

    images: list[Image.Image] | Tensor  # pictures, or latents (N, C, h, w) with output_type="latent"
    seeds: list[int]  # one per image: the same seed and settings give the same picture
    evaluations: int  # model evaluations of the batch, conditional and unconditional counted each
    skipped: int  # unconditional evaluations left out because the guidance weight was near 1


Images = Callable[[Tensor], list[Image.Image]]  # latents (N, C, h, w) -> pictures


@dataclass(frozen=True)
class PipelineStep:
    """One step of a stream. Previews are made when they are asked for: one that is not shown costs nothing."""

    index: int  # 0..total-1
    total: int
    timestep: int  # the training timestep the model was asked at, 999..0
    x_t: Tensor  # (N, C, h, w) the state after the step
    x_0: Tensor  # (N, C, h, w) the prediction of the clean latents
    evaluations: int  # so far
    skipped: int  # so far
    images: list[Image.Image] | Tensor | None  # the result, on the last step
    sketch: Images = field(repr=False)  # latents -> previews

    @cached_property
    def preview(self) -> list[Image.Image]:
        """The predicted clean images, by the linear preview."""
        return self.sketch(self.x_0)

    @cached_property
    def noisy_preview(self) -> list[Image.Image]:
        """The noisy state itself, by the linear preview."""
        return self.sketch(self.x_t)


class Pictures:
    """What a pipeline with an autoencoder `vae` knows of pictures. Mixed into `MDTPipeline`."""

    def decode_images(self, latents: Tensor) -> list[Image.Image]:
        """Latents (N, C, h, w) -> PIL images."""
        return [to_pil(pixels) for pixels in self._decode(latents)]

    def preview_images(self, latents: Tensor) -> list[Image.Image]:
        """Latents (N, C, h, w) -> PIL images by the linear map, enlarged to the picture's size."""
        side = (self.image_size, self.image_size)
        return [to_pil(pixels).resize(side, Image.Resampling.BICUBIC) for pixels in self._preview(latents)]

    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels -> latents: the posterior's mean, float32."""
        return encode(self.vae, pixels.to(self.device, self.vae.dtype)).float()

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        """Latents -> pixels, one image at a time: a picture does not depend on its neighbours."""
        return torch.cat([decode(self.vae, z.to(self.vae.dtype)) for z in latents.split(1)]).float().cpu()

    def _preview(self, latents: Tensor) -> Tensor:
        return preview(latents.float().cpu(), self._preview_weights)

    @cached_property
    def _preview_weights(self) -> Tensor:
        if self.config.preview_weights is None:
            self.fit_preview()
        return torch.tensor(self.config.preview_weights)

    @torch.no_grad()
    def fit_preview(self, latents: Tensor | None = None) -> None:
        """Fit the linear preview to the autoencoder at hand and store it in the pipeline's configuration.

        Args:
            latents: (N, C, h, w) of real pictures. Without them, smooth random latents are decoded.
        """
        if latents is None:
            rng = generators(range(8))
            coarse = initial_latents(rng, (self.latent_shape[0], 8, 8))
            latents = torch.nn.functional.interpolate(coarse, self.latent_shape[1:], mode="bicubic")
        pixels = torch.cat([decode(self.vae, z.to(self.vae.device, self.vae.dtype)) for z in latents.split(8)])
        weights = fit_preview(latents.float().cpu(), pixels.float().cpu(), pixel_block(self.vae))
        rounded = [[round(weight, 4) for weight in row] for row in weights.tolist()]  # of pixels in [-1, 1]
        self.register_to_config(preview_weights=rounded)
        self.__dict__.pop("_preview_weights", None)  # of before


def to_pil(pixels: Tensor) -> Image.Image:
    """Pixels (3, H, W) in [-1, 1] -> PIL RGB."""
    return Image.fromarray(to_uint8(pixels))
