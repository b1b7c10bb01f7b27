"""The pipeline's inpainting: a picture of any size and its mask in, the picture with the masked part made anew out."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdt_core.autoencoder import downscale
from mdt_core.inpainting import DEFAULT_SCALE, Method, choose_content, find_method, inpaint, starting_latents
from mdt_core.pipeline.canvas import fit_canvas
from mdt_core.pipeline.image_arrays import mask_array, picture_array
from mdt_core.pipeline.labels import ClassLabel
from mdt_core.pipeline.outputs import MDTPipelineOutput, PipelineStep
from mdt_core.samplers import generators, sampling_timesteps


class Repainting:
    """What a pipeline knows of inpainting. Mixed into `MDTPipeline`."""

    def inpaint(
        self,
        image: Image.Image | np.ndarray,
        mask: Image.Image | np.ndarray,
        class_labels: ClassLabel | Sequence[ClassLabel] = None,
        **settings,
    ) -> MDTPipelineOutput:
        """Repaint a part of a picture; arguments and errors as in `stream_inpaint`."""
        seeds = self._seeds(class_labels, settings.pop("seeds", None))
        *_, last = self.stream_inpaint(image, mask, class_labels, seeds=seeds, **settings)
        return MDTPipelineOutput(last.images, seeds, last.evaluations, last.skipped)

    def stream_inpaint(
        self,
        image: Image.Image | np.ndarray,
        mask: Image.Image | np.ndarray,
        class_labels: ClassLabel | Sequence[ClassLabel] = None,
        method: str | Method = "mdt",
        num_inference_steps: int | None = None,
        strength: float = 1.0,
        seeds: int | Sequence[int] | None = None,
        sampler: str | None = None,
        guidance_scale: float = DEFAULT_SCALE,
        guidance_power: float = 4.0,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = 1e-2,
        area: str = "whole",
        masked_content: str = "auto",
        grow: int = 8,
        feather: int = 8,
    ) -> Iterator[PipelineStep]:
        """Repaint a part of a picture of any size, step by step; previews and results have the picture's size.

        Args:
            image: a PIL picture, or (H, W), (H, W, 3) or (H, W, 4) uint8.
            mask: of the same size; white (or true) where to repaint, see `mdt_core.pipeline.image_arrays.mask_array`.
            class_labels, seeds, guidance_scale, guidance_power, guidance_channels, skip_tolerance: as in `stream`;
                one seed per variant.
            method: "mdt", "repaint" or "blend" (see `mdt_core.inpainting`). A DiT has no "mdt".
            num_inference_steps: of the whole trajectory; a method's repeats come on top. By default the method's.
            strength: in (0, 1], the part of the trajectory that is run: below 1 it starts from the noised picture.
            sampler: by default the method's.
            area: "whole" picture, largest "crop", or a square around the "masked" part, at the model's resolution.
            masked_content: what the hole starts from: "fill" (blurred surroundings), "original", "noise" (strength 1
                only), or "auto": "original" where the strength is below 1, else "fill".
            grow: picture pixels by which the mask is dilated. Outside the grown mask nothing changes, exactly.
            feather: picture pixels over which the new part fades in, inside the grown ring.

        Raises:
            ValueError: an argument is out of its range, or picture and mask do not fit. Before the first step.
        """
        seeds = self._seeds(class_labels, seeds)
        rngs = generators(seeds)
        method = find_method(method)
        sampler, num_inference_steps = method.schedule(sampler, num_inference_steps)
        if method.masked_pass and "side_interpolator" not in self.transformer.parts:
            raise ValueError('this model has no side-interpolator: choose the method "repaint" or "blend"')
        content = choose_content(masked_content, strength)
        image, mask = picture_array(image), mask_array(mask)
        cell = downscale(self.vae)
        canvas = fit_canvas(image, mask, self.image_size, cell=cell, area=area, grow=grow, feather=feather)
        hardness = canvas.hardness(*self.latent_shape[1:])
        with torch.no_grad():
            known, start = starting_latents(content, self._encode, canvas.pixels(), canvas.hole(), hardness, rngs)
        denoise = self._guided(
            class_labels,
            sampling_timesteps(sampler, num_inference_steps),
            len(seeds),
            guidance_scale,
            guidance_power,
            guidance_channels,
            skip_tolerance,
        )
        steps = inpaint(
            denoise,
            known,
            hardness,
            generators=rngs,
            method=method,
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            strength=strength,
            patch_size=self.transformer.config.patch_size,
            content=start,
        )

        def pasted(pixels: Tensor) -> list[Image.Image]:
            return [Image.fromarray(canvas.paste(new)) for new in pixels]

        def sketch(latents: Tensor) -> list[Image.Image]:
            side = (self.image_size, self.image_size)
            return pasted(torch.nn.functional.interpolate(self._preview(latents), side, mode="bicubic"))

        return self._follow(steps, denoise, lambda latents: pasted(self._decode(latents)), sketch)
