"""The pipeline: class labels and seeds in, pictures out, every step on the way to be seen.

A diffusers pipeline of two components, `transformer` and `vae`. `stream` yields each step and is the one path
that the command line, the browser and `__call__` take. Every image has its own seed: its picture does not
depend on the batch it is made in.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from mdt_core.autoencoder import decode, downscale, encode, fit_preview, preview
from mdt_core.canvas import fit_canvas
from mdt_core.guidance import Guided, guide
from mdt_core.inpainting import Method, find_method, inpaint, starting_latents
from mdt_core.official import download, load_official, resolve
from mdt_core.samplers import Step, find_sampler, generators, initial_latents, sample
from mdt_core.transformer import MDT, MDTTransformer

IMAGENET_CLASSES = Path(__file__).parents[1] / "assets" / "imagenet_classes.json"
MAX_SEED = 2**63 - 1

ClassLabel = int | str | None  # an index, a name, or None for no class


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


class MDTPipeline(DiffusionPipeline):
    """Class-conditional image generation with a (masked) diffusion transformer.

    Args:
        transformer: the model.
        vae: the autoencoder, an `AutoencoderKL` or `AutoencoderTiny`.
        id2label: class index -> name; names are "class 0", "class 1", ... where there are none.
        preview_weights: (3 b^2, C + 1) nested lists, the linear map of `mdt_core.autoencoder.fit_preview`; fitted
            when first needed if absent.
        guidance_channels: epsilon channels that guidance acts on by default; 3 as published, None for all.
    """

    model_cpu_offload_seq = "transformer->vae"
    default_vae = "stabilityai/sd-vae-ft-mse"

    def __init__(
        self,
        transformer: MDTTransformer,
        vae: AutoencoderKL | AutoencoderTiny,
        id2label: dict | None = None,
        preview_weights: list[list[float]] | None = None,
        guidance_channels: int | None = 3,
    ):
        super().__init__()
        self.register_modules(transformer=transformer.eval(), vae=vae.eval())
        names = {int(index): name for index, name in (id2label or {}).items()}
        self.id2label = {i: names.get(i, f"class {i}") for i in range(transformer.config.num_classes)}
        self.register_to_config(
            id2label=self.id2label, preview_weights=preview_weights, guidance_channels=guidance_channels
        )

    # --- opening a model -----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "MDTPipeline":
        """Open a local folder, a published checkpoint file, or a hub id that holds either.

        Raises:
            ValueError: nothing is there, or it is not a model of this family.
        """
        path = resolve(pretrained_model_name_or_path)
        if path.is_file():
            return cls.from_official(path)
        index = json.loads((path / "model_index.json").read_text())
        if index.get("_class_name") != cls.__name__:
            raise ValueError(f"{path} holds a {index.get('_class_name')}, not an {cls.__name__}")
        return super().from_pretrained(path, **kwargs)

    @classmethod
    def from_official(
        cls, path: str | Path, vae: str | Path | None = None, decoder_layers: int | None = None
    ) -> "MDTPipeline":
        """A published .pt or .safetensors file and an autoencoder (folder or hub id; by default `default_vae`).

        Raises:
            ValueError: the file is no such checkpoint, or the autoencoder cannot be had or does not fit.
        """
        transformer = load_official(path, decoder_layers=decoder_layers)
        vae = vae or cls.default_vae
        folder = vae if Path(vae).is_dir() else download(str(vae), ["*.json", "*.safetensors"])
        try:
            autoencoder = AutoencoderKL.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"the autoencoder {vae} cannot be opened: {reason}") from error
        if autoencoder.config.latent_channels != transformer.config.in_channels:
            raise ValueError(
                f"{vae} has {autoencoder.config.latent_channels} latent channels, "
                f"the model {transformer.config.in_channels}: choose another --vae"
            )
        names = json.loads(IMAGENET_CLASSES.read_text()) if transformer.config.num_classes == 1000 else None
        return cls(transformer, autoencoder, id2label=names)

    # --- what the model is ---------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        return self.transformer.config.num_classes

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        config = self.transformer.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.transformer.config.sample_size * downscale(self.vae)

    def class_index(self, label: ClassLabel) -> int:
        """The index of a class given by index or name; None is the null class.

        Raises:
            ValueError: there is no such class.
        """
        if label is None:
            return self.num_classes
        if isinstance(label, str) and not label.lstrip("-").isdigit():
            by_name = {name.casefold(): index for index, name in self.id2label.items()}
            if label.casefold() in by_name:
                return by_name[label.casefold()]
            near = difflib.get_close_matches(label.casefold(), by_name, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"this model knows {self.num_classes} classes"
            raise ValueError(f"no class is called {label!r}: {hint}")
        index = int(label)
        if not 0 <= index < self.num_classes:
            raise ValueError(f"class {index} is out of range: this model has classes 0 to {self.num_classes - 1}")
        return index

    # --- sampling ------------------------------------------------------------------------------------------

    def __call__(self, class_labels: ClassLabel | Sequence[ClassLabel] = None, **settings) -> MDTPipelineOutput:
        """Generate pictures; arguments and errors as in `stream`."""
        seeds = self._seeds(class_labels, settings.pop("seeds", None))
        *_, last = self.stream(class_labels, seeds=seeds, **settings)
        return MDTPipelineOutput(last.images, seeds, last.evaluations, last.skipped)

    def stream(
        self,
        class_labels: ClassLabel | Sequence[ClassLabel] = None,
        guidance_scale: float = 3.8,
        guidance_power: float = 4.0,
        num_inference_steps: int = 25,
        sampler: str = "dpm++",
        seeds: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = 1e-2,
        output_type: str = "pil",
    ) -> Iterator[PipelineStep]:
        """Generate pictures, step by step.

        Args:
            class_labels: one per image: index, name, or None for no class. A single one goes with all seeds.
            guidance_scale: w, at least 0; 1 is conditional only. guidance_power: s, at least 0; 0 is constant w.
            num_inference_steps: 1 up to the sampler's most (1000 for "ddpm", 250 for the others).
            sampler: "dpm++", "ddim" or "ddpm".
            seeds: one per image, 0 to 2^63 - 1; drawn at random if None. A single one goes with all labels.
            latents: (N, C, h, w) noise to start from, in place of that of the seeds.
            guidance_channels: epsilon channels that are guided, from the first; None for all; by default the model's.
            skip_tolerance: the unconditional branch is left out where the weight is this near 1; 0 never.
            output_type: "pil", or "latent" for latents (N, C, h, w) in place of pictures.

        Raises:
            ValueError: an argument is out of its range. Raised by the call, before the first step.
        """
        seeds = self._seeds(class_labels, seeds)
        rngs = generators(seeds)
        find_sampler(sampler, num_inference_steps)
        if output_type not in ("pil", "latent"):
            raise ValueError(f'output_type must be "pil" or "latent", not {output_type!r}')
        if latents is None:
            latents = initial_latents(rngs, self.latent_shape)
        elif tuple(latents.shape) != (len(seeds), *self.latent_shape):
            raise ValueError(f"latents must be {(len(seeds), *self.latent_shape)}, not {tuple(latents.shape)}")
        denoise = self._guided(
            class_labels, len(seeds), guidance_scale, guidance_power, guidance_channels, skip_tolerance
        )
        steps = sample(
            denoise,
            latents.to(self.device),
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            generators=rngs,
        )
        finish = (lambda x: x) if output_type == "latent" else self.decode_images
        return self._follow(steps, denoise, finish, self.preview_images)

    # --- inpainting ----------------------------------------------------------------------------------------

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
        num_inference_steps: int = 50,
        strength: float = 1.0,
        seeds: int | Sequence[int] | None = None,
        sampler: str | None = None,
        guidance_scale: float = 3.8,
        guidance_power: float = 4.0,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = 1e-2,
        area: str = "whole",
        masked_content: str = "fill",
        grow: int = 8,
        feather: int = 4,
    ) -> Iterator[PipelineStep]:
        """Repaint a part of a picture of any size, step by step; previews and results have the picture's size.

        Args:
            image: a PIL picture, or (H, W, 3) uint8.
            mask: of the same size; white (or true) where to repaint. A grey mask counts from 128 up.
            class_labels, seeds, guidance_scale, guidance_power, guidance_channels, skip_tolerance: as in `stream`;
                one seed per variant.
            method: "mdt", "repaint" or "blend" (see `mdt_core.inpainting`). A DiT has no "mdt".
            num_inference_steps: of the whole trajectory; a method's repeats come on top.
            strength: in (0, 1]; below 1 it starts from the noised picture.
            sampler: by default the method's.
            area: "whole" picture, largest "crop", or a square around the "masked" part, at the model's resolution.
            masked_content: "fill" (blurred surroundings), "original" or "noise".
            grow: picture pixels by which the mask is dilated. Outside the grown mask nothing changes, exactly.
            feather: picture pixels over which the new part fades in, inside the grown ring.

        Raises:
            ValueError: an argument is out of its range, or picture and mask do not fit. Before the first step.
        """
        seeds = self._seeds(class_labels, seeds)
        rngs = generators(seeds)
        if find_method(method).masked_pass and not isinstance(self.transformer, MDT):
            raise ValueError('this model has no side-interpolator: choose the method "repaint" or "blend"')
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("RGB"))
        if isinstance(mask, Image.Image):
            mask = np.asarray(mask.convert("L"))
        mask = mask if mask.dtype == bool else mask > 127
        cell = downscale(self.vae)
        canvas = fit_canvas(image, mask, self.image_size, cell=cell, area=area, grow=grow, feather=feather)
        hardness = canvas.hardness(*self.latent_shape[1:])
        with torch.no_grad():
            known, content = starting_latents(
                masked_content, self._encode, canvas.pixels(), canvas.hole(), hardness, rngs
            )
        denoise = self._guided(
            class_labels, len(seeds), guidance_scale, guidance_power, guidance_channels, skip_tolerance
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
            content=content,
        )

        def pasted(pixels: Tensor) -> list[Image.Image]:
            return [Image.fromarray(canvas.paste(new)) for new in pixels]

        def sketch(latents: Tensor) -> list[Image.Image]:
            side = (self.image_size, self.image_size)
            return pasted(torch.nn.functional.interpolate(self._preview(latents), side, mode="bicubic"))

        return self._follow(steps, denoise, lambda latents: pasted(self._decode(latents)), sketch)

    # --- what both share -----------------------------------------------------------------------------------

    def _follow(self, steps: Iterator[Step], denoise: Guided, finish, sketch: Images) -> Iterator[PipelineStep]:
        """The sampler's steps with counts, previews and, on the last one, the result that `finish` makes."""
        for step in steps:
            images = finish(step.x_t) if step.index + 1 == step.total else None
            counts = denoise.evaluations, denoise.skipped
            yield PipelineStep(step.index, step.total, step.timestep, step.x_t, step.x_0, *counts, images, sketch)

    def _guided(
        self,
        class_labels: ClassLabel | Sequence[ClassLabel],
        count: int,
        guidance_scale: float,
        guidance_power: float,
        guidance_channels: int | str | None,
        skip_tolerance: float,
    ) -> Guided:
        """The model with `count` labels and guidance bound to it."""
        labels = _as_list(class_labels)
        if len(labels) not in (1, count):
            raise ValueError(f"{len(labels)} class labels do not go with {count} seeds: give one per image")
        indices = [self.class_index(label) for label in labels] * (count // len(labels))
        return guide(
            self._evaluate,
            torch.tensor(indices, device=self.device),
            null_class=self.num_classes,
            guidance_scale=guidance_scale,
            guidance_power=guidance_power,
            guidance_channels=self.config.guidance_channels if guidance_channels == "config" else guidance_channels,
            skip_tolerance=skip_tolerance,
        )

    def _evaluate(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, **masked) -> Tensor:
        return self.transformer(x_t.to(self.transformer.dtype), timesteps, class_labels, **masked)

    def _seeds(self, class_labels: ClassLabel | Sequence[ClassLabel], seeds: int | Sequence[int] | None) -> list[int]:
        """One seed per image: as given, one for all labels, or drawn at random."""
        count = len(_as_list(class_labels))
        if not count:
            raise ValueError("class_labels is empty: give at least one, None for an image of no class")
        if seeds is None:
            return torch.randint(2**31, (count,)).tolist()
        seeds = [int(seed) for seed in _as_list(seeds)]
        return seeds * count if len(seeds) == 1 else seeds

    # --- latents -> pictures -------------------------------------------------------------------------------

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
        pixels = torch.cat([decode(self.vae, z.to(self.vae.dtype).to(self.device)) for z in latents.split(8)])
        block = min(downscale(self.vae), 4) if downscale(self.vae) < 8 else 1
        weights = fit_preview(latents.float().cpu(), pixels.float().cpu(), block)
        self.register_to_config(preview_weights=weights.tolist())


def to_pil(pixels: Tensor) -> Image.Image:
    """Pixels (3, H, W) in [-1, 1] -> PIL RGB."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


def _as_list(value) -> list:
    """A single label or seed as a list of one."""
    return list(value) if isinstance(value, Sequence | Tensor) and not isinstance(value, str) else [value]
