"""The pipeline: class labels and seeds in, pictures out, every step on the way to be seen.

A diffusers pipeline of two components, `transformer` and `vae`. `stream` and `stream_inpaint` yield each step and are
the one path that the command line, the browser, `__call__` and `inpaint` take.

Every image has its own seed. On a CPU its picture is the same, bit for bit, alone and in any batch; on a GPU it is the
same but for rounding.
"""

from collections.abc import Collection, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from PIL import Image
from torch import Tensor

from mdt_core.acceleration.evaluation import Evaluation
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.autoencoder import downscale
from mdt_core.guidance import SKIP_TOLERANCE, Guided, guide, null_labels
from mdt_core.inpainting import DEFAULT_SCALE, Method, choose_content, find_method, inpaint, starting_latents
from mdt_core.lora import LORA_FILE, LoRA
from mdt_core.masking import mask_noise
from mdt_core.pipeline.canvas import fit_canvas
from mdt_core.pipeline.decoding import enlarge, preview_weights, smooth_latents, to_latents, to_pixels, to_small_pixels
from mdt_core.pipeline.image_arrays import Picture, mask_array, picture_array, to_pil
from mdt_core.pipeline.labels import ClassLabel, ClassLabels, Seeds, class_index, image_seeds, label_tensor
from mdt_core.pipeline.outputs import MDTPipelineOutput, PipelineStep, pipeline_steps
from mdt_core.pipeline.parts import published_parts, read_folder
from mdt_core.pipeline.settings import SamplingSettings, sampling_presets
from mdt_core.samplers import generators, initial_latents, sample, sampling_timesteps
from mdt_core.saved_config import tidy_config
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import HUB_OPTIONS, our_classes, resolve

SETTINGS = [field.name for field in fields(SamplingSettings)]  # those that `stream` and `stream_inpaint` both take


class MDTPipeline(DiffusionPipeline):
    """Class-conditional generation and inpainting with a (masked) diffusion transformer.

    Args:
        transformer: the model.
        vae: the autoencoder, an `AutoencoderKL` or `AutoencoderTiny`.
        id2label: class index -> name; names are "class 0", "class 1", ... where there are none.
        preview_weights: (3 b^2, C + 1) nested lists, the linear map of `mdt_core.autoencoder.fit_preview`; fitted
            when first needed if absent.
        guidance_channels: epsilon channels that guidance acts on by default; 3 as published, None for all.
        sampling_defaults: what `stream` begins with where a call leaves it open, any fields of
            `mdt_core.pipeline.settings.SamplingSettings`; the others as published. Under "presets" it may carry "fast"
            and "slow" too, see `sampling_presets` there.
    """

    def __init__(
        self,
        transformer: MDTTransformer,
        vae: AutoencoderKL | AutoencoderTiny,
        id2label: dict | None = None,
        preview_weights: list[list[float]] | None = None,
        guidance_channels: int | None = 3,
        sampling_defaults: dict | None = None,
    ):
        super().__init__()
        self.register_modules(transformer=transformer.eval(), vae=vae.eval())
        names = {int(index): name for index, name in (id2label or {}).items()}
        self.id2label = {i: names.get(i, f"class {i}") for i in range(transformer.config.num_classes)}
        sampling_presets(sampling_defaults)  # checked
        self.register_to_config(
            id2label=self.id2label,
            preview_weights=preview_weights,
            guidance_channels=guidance_channels,
            sampling_defaults=sampling_defaults,
        )
        self.lora: LoRA | None = None
        self._evaluation = Evaluation(self.transformer)

    # --- opening and saving --------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "MDTPipeline":
        """Open a local folder, a published checkpoint file, or a hub id that holds either.

        Args:
            pretrained_model_name_or_path: see `mdt_core.weights.hub.resolve`.
            **kwargs: `revision`, `cache_dir`, `token` and `local_files_only` say how to fetch a hub id. A folder takes
                what diffusers takes, such as components in place of its own; a published file a `vae` (an autoencoder,
                its folder or hub id) and v1's `decoder_layers`.

        Raises:
            ValueError: nothing is there, it is damaged, it is not a model of this family, or an argument is not for it.
        """
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        path = resolve(pretrained_model_name_or_path, **hub)
        if path.is_file():
            return cls(**published_parts(path, hub, **kwargs))
        pipe = read_folder(path, cls, partial(super().from_pretrained, path, **kwargs))
        if (path / LORA_FILE).is_file() and "transformer" not in kwargs:
            pipe.load_lora_weights(path)
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> dict:
        """As diffusers does. An exported folder is opened by this class, not by the code that it brings."""
        return our_classes(super().load_config(*args, **kwargs))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As diffusers does; the folder keeps no path of this machine, and no low-rank addition of another model."""
        super().save_pretrained(save_directory, **kwargs)
        tidy_config(Path(save_directory) / self.config_name)
        tidy_config(Path(save_directory) / "vae" / self.vae.config_name)
        lora = Path(save_directory) / LORA_FILE
        lora.unlink(missing_ok=True)
        if self.lora is not None:
            self.lora.save(lora)

    def load_lora_weights(self, path: str | Path) -> None:
        """Read a low-rank addition to the transformer, with which `distilled=True` then draws.

        A model's folder that holds one is opened with it. The transformer itself stays as it is.

        Args:
            path: the file, or the folder of a file `pytorch_lora_weights.safetensors`, as `train.distill` writes it.

        Raises:
            ValueError: it cannot be read, or is for another model.
        """
        path = Path(path)
        self.lora = LoRA.load(path / LORA_FILE if path.is_dir() else path, self.transformer)

    # --- what the model is ---------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Classes, the null class not counted."""
        return self.transformer.config.num_classes

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        config = self.transformer.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def image_size(self) -> int:
        """Side S of the model's pictures in pixels."""
        return self.transformer.config.sample_size * downscale(self.vae)

    @property
    def sampling_defaults(self) -> SamplingSettings:
        """What `stream` begins with where a call leaves it open. Set it to a dict, or to None for the published."""
        return self.sampling_presets["balanced"]

    @sampling_defaults.setter
    def sampling_defaults(self, entries: dict | None) -> None:
        sampling_presets(entries)  # checked
        self.register_to_config(sampling_defaults=entries)

    @property
    def sampling_presets(self) -> dict[str, SamplingSettings]:
        """The settings of "fast", "balanced" (the `sampling_defaults`) and "slow", whole, for any model."""
        return sampling_presets(self.config.sampling_defaults)

    def class_index(self, label: ClassLabel) -> int:
        """The index of a class given by index or name, as `mdt_core.pipeline.labels.class_index` finds it."""
        return class_index(label, self.id2label)

    # --- speed ---------------------------------------------------------------------------------------------

    def optimize(
        self, compile: bool = False, dtype: str | torch.dtype = "auto", cuda_graphs: bool = True
    ) -> "MDTPipeline":
        """`pipe.optimize(...)`: choose how the model is evaluated from now on; once, before the first picture.

        Without it a pipeline runs in float32 as it is; that is what the paper's figures are made with.

        Args:
            compile: compile the transformer's block (one kind of block, not the whole model), for good. The first
                pictures of a batch size wait for it, tens of seconds on a CPU. Changes a result by rounding alone.
            dtype: what matrix products run in. "auto": bfloat16 on a GPU, and on a CPU with AMX for models at least
                384 wide, else float32; "float32", "bfloat16" or "float16". bfloat16 changes a model's output by about
                1%. 16 bits take a copy of the weights, half as large: call again where they change.
            cuda_graphs: on a GPU, replay the launches of small batches. Changes nothing.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: an option that this device does not have.
        """
        dtype = choose_dtype(dtype, self.device, self.transformer.config.hidden_size)
        self._evaluation = Evaluation(self.transformer, dtype, compile, cuda_graphs)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "MDTPipeline":
        """As diffusers' pipelines. On another device, or in another type, call `optimize` again."""
        before = self.device, self.transformer.dtype
        super().to(*args, **kwargs)
        if (self.device, self.transformer.dtype) != before:
            self._evaluation = Evaluation(self.transformer)
        return self

    def _evaluation_of(self, distilled: bool) -> Evaluation:
        """How the model is evaluated, as it is or with its low-rank addition."""
        if self._evaluation.model is not self.transformer:  # another one was put in its place
            self._evaluation = Evaluation(self.transformer)
        if not distilled:
            return self._evaluation
        if self.lora is None:
            raise ValueError("this model has no distilled weights: leave distilled out, or call load_lora_weights")
        return self._evaluation.merged_with(self.lora)

    # --- sampling ------------------------------------------------------------------------------------------

    def __call__(
        self,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        seeds: Seeds = None,
        latents: Tensor | None = None,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = SKIP_TOLERANCE,
        output_type: str = "pil",
        guidance_kind: str | None = None,
        guidance_low: int | None = None,
        guidance_high: int | None = None,
        first_timestep: int | None = None,
        distilled: bool | None = None,
    ) -> MDTPipelineOutput:
        """Generate pictures: `stream`, with its arguments and errors, to its end."""
        return MDTPipelineOutput.of(self.stream(**_given(locals())))

    def stream(
        self,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        seeds: Seeds = None,
        latents: Tensor | None = None,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = SKIP_TOLERANCE,
        output_type: str = "pil",
        guidance_kind: str | None = None,
        guidance_low: int | None = None,
        guidance_high: int | None = None,
        first_timestep: int | None = None,
        distilled: bool | None = None,
    ) -> Iterator[PipelineStep]:
        """Generate pictures, step by step.

        Args:
            class_labels: one per image: index, name, None for no class, or a mix of classes as {"dylan": 0.6,
                "sprouts": 0.4}, whose weights are brought to a sum of 1. A single one goes with all seeds.
            guidance_scale: w, at least 0; 1 is conditional only. By default the model's `sampling_defaults`, as the
                next three and the last five.
            guidance_power: s, at least 0; 0 is constant w.
            num_inference_steps: 1 up to the sampler's most (1000 for "ddpm", 250 for the others).
            sampler: "dpm++", "ddim" or "ddpm".
            seeds: one per image, 0 to 2^63 - 1; drawn at random if None. A single one goes with all labels.
            latents: (N, C, h, w) noise to start from, in place of that of the seeds.
            guidance_channels: epsilon channels that are guided, from the first; None for all; by default the model's.
            skip_tolerance: the weak branch is left out where the weight is this near 1; 0 never.
            output_type: "pil", or "latent" for latents (N, C, h, w) in place of pictures.
            guidance_kind: "class", "mask" or "both": what the weak branch lacks, see `mdt_core.guidance`.
            guidance_low: the lowest timestep that is guided, 0 to 999; below, a step takes one evaluation.
            guidance_high: the highest; above, a step takes one evaluation.
            first_timestep: where the steps begin, 1 to 999, see `mdt_core.samplers.sampling_timesteps`.
            distilled: whether to draw with the model's low-rank addition, see `load_lora_weights`.

        Raises:
            ValueError: an argument is out of its range; raised by the call, before the first step. On the last one:
                what the model or the autoencoder gave is not finite.
        """
        seeds = image_seeds(seeds, class_labels)
        settings = self.sampling_defaults.but(**_given(locals(), SETTINGS))
        if output_type not in ("pil", "latent"):
            raise ValueError(f'output_type must be "pil" or "latent", not {output_type!r}')
        rngs = generators(seeds)
        noise = initial_latents(rngs, self.latent_shape)  # drawn in any case: the noise of later steps is other
        latents = noise if latents is None else latents
        if latents.shape != noise.shape:
            raise ValueError(f"latents must be {tuple(noise.shape)}, not {tuple(latents.shape)}")
        if not latents.isfinite().all():
            raise ValueError("latents must be finite numbers, without NaN and infinity")
        denoise = self._guided(class_labels, seeds, settings, guidance_channels, skip_tolerance)
        steps = sample(denoise, latents.to(self.device), **settings.trajectory, generators=rngs)
        to_result = self.decode_images if output_type == "pil" else lambda latents: latents
        return pipeline_steps(steps, denoise, seeds, settings, to_result, self.preview_images)

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        class_labels: ClassLabels = None,
        method: str | Method = "mdt",
        num_inference_steps: int | None = None,
        strength: float = 1.0,
        seeds: Seeds = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = SKIP_TOLERANCE,
        area: str = "whole",
        masked_content: str = "auto",
        grow: int = 8,
        feather: int = 8,
        guidance_kind: str | None = None,
        guidance_low: int | None = None,
        guidance_high: int | None = None,
        first_timestep: int | None = None,
        distilled: bool | None = None,
    ) -> MDTPipelineOutput:
        """Repaint a part of a picture: `stream_inpaint`, with its arguments and errors, to its end."""
        return MDTPipelineOutput.of(self.stream_inpaint(**_given(locals())))

    def stream_inpaint(
        self,
        image: Picture,
        mask: Picture,
        class_labels: ClassLabels = None,
        method: str | Method = "mdt",
        num_inference_steps: int | None = None,
        strength: float = 1.0,
        seeds: Seeds = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_power: float | None = None,
        guidance_channels: int | str | None = "config",
        skip_tolerance: float = SKIP_TOLERANCE,
        area: str = "whole",
        masked_content: str = "auto",
        grow: int = 8,
        feather: int = 8,
        guidance_kind: str | None = None,
        guidance_low: int | None = None,
        guidance_high: int | None = None,
        first_timestep: int | None = None,
        distilled: bool | None = None,
    ) -> Iterator[PipelineStep]:
        """Repaint a part of a picture of any size, step by step; previews and results have the picture's size.

        Args:
            image: a PIL picture, or (H, W), (H, W, 3) or (H, W, 4) uint8.
            mask: of the same size; white (or true) where to repaint, see `mdt_core.pipeline.image_arrays.mask_array`.
            class_labels, seeds, guidance_channels, skip_tolerance: as in `stream`; one seed per variant.
            guidance_kind, guidance_low, guidance_high: as in `stream`; by default "class", everywhere.
            distilled: as in `stream`; by default false.
            method: "mdt", "repaint" or "blend" (see `mdt_core.inpainting`). A DiT has no "mdt".
            num_inference_steps: of the whole trajectory; a method's repeats come on top.
            sampler, first_timestep: as in `stream`. By default all three are the method's.
            strength: in (0, 1], the part of the trajectory that is run: below 1 it starts from the noised picture.
            guidance_scale: w, at least 0; by default 2, less than `stream` takes: what is known guides too.
            guidance_power: s, at least 0; by default 4. Of the model's `sampling_defaults` inpainting takes nothing.
            area: "whole" picture, largest "crop", or a square around the "masked" part, at the model's resolution.
            masked_content: what the hole starts from: "fill" (blurred surroundings), "original", "noise" (strength 1
                only), or "auto": "original" where the strength is below 1, else "fill".
            grow: picture pixels by which the mask is dilated. Outside the grown mask nothing changes, exactly.
            feather: picture pixels over which the new part fades in, inside the grown ring.

        Raises:
            ValueError: an argument is out of its range, or picture and mask do not fit; before the first step. On the
                last one: what the model or the autoencoder gave is not finite.
        """
        seeds, method = image_seeds(seeds, class_labels), find_method(method)
        if method.masked_pass and "side_interpolator" not in self.transformer.parts:
            raise ValueError('this model has no side-interpolator: choose the method "repaint" or "blend"')
        chosen = _given(locals(), SETTINGS)
        settings = SamplingSettings(guidance_scale=DEFAULT_SCALE).but(**chosen | method.trajectory(**chosen))
        content, rngs = choose_content(masked_content, strength), generators(seeds)
        picture, mask, cell = picture_array(image), mask_array(mask), downscale(self.vae)
        canvas = fit_canvas(picture, mask, self.image_size, cell=cell, area=area, grow=grow, feather=feather)
        hardness = canvas.hardness(*self.latent_shape[1:])
        encode = partial(to_latents, self.vae)
        latents = starting_latents(content, encode, canvas.pixels(), canvas.hole(), hardness, rngs)
        known, start = (each.to(self.device) for each in latents)
        denoise = self._guided(class_labels, seeds, settings, guidance_channels, skip_tolerance)
        steps = inpaint(
            denoise,
            known,
            hardness,
            generators=rngs,
            method=method,
            **settings.trajectory,
            strength=strength,
            patch_size=self.transformer.config.patch_size,
            content=start,
        )

        def to_result(latents: Tensor) -> list[Image.Image]:
            return canvas.pictures(to_pixels(self.vae, latents))

        def to_preview(latents: Tensor) -> list[Image.Image]:
            return canvas.pictures(enlarge(to_small_pixels(self._preview_weights, latents), self.image_size))

        return pipeline_steps(steps, denoise, seeds, settings, to_result, to_preview)

    def _guided(
        self,
        class_labels: ClassLabels,
        seeds: list[int],
        settings: SamplingSettings,
        guidance_channels: int | str | None,
        skip_tolerance: float,
    ) -> Guided:
        """The model with labels and guidance bound to it, for a trajectory of one image per seed."""
        if settings.guidance_kind != "class" and "side_interpolator" not in self.transformer.parts:
            kind = settings.guidance_kind
            raise ValueError(f'guidance_kind "{kind}" takes a masked pass, which this model lacks: choose "class"')
        labels = label_tensor(class_labels, self.id2label, len(seeds)).to(self.device)
        asked = torch.cat([labels, null_labels(labels, self.num_classes)])
        timesteps = sampling_timesteps(**settings.trajectory)
        return guide(
            self._evaluation_of(settings.distilled).for_trajectory(timesteps, asked, len(asked)),
            labels,
            null_class=self.num_classes,
            **settings.guidance,
            guidance_channels=self.config.guidance_channels if guidance_channels == "config" else guidance_channels,
            skip_tolerance=skip_tolerance,
            mask_noise=mask_noise(seeds, self.transformer.num_tokens),
        )

    # --- latents -> pictures -------------------------------------------------------------------------------

    def decode_images(self, latents: Tensor) -> list[Image.Image]:
        """Latents (N, C, h, w) -> PIL images."""
        return [to_pil(pixels) for pixels in to_pixels(self.vae, latents)]

    def preview_images(self, latents: Tensor) -> list[Image.Image]:
        """Latents (N, C, h, w) -> PIL images by the linear map, enlarged to the picture's size."""
        side = (self.image_size, self.image_size)
        small = to_small_pixels(self._preview_weights, latents)
        return [to_pil(pixels).resize(side, Image.Resampling.BICUBIC) for pixels in small]

    def fit_preview(self, latents: Tensor | None = None) -> None:
        """Fit the linear preview to the autoencoder at hand and store it in the pipeline's configuration.

        Args:
            latents: (N, C, h, w) of real pictures. Without them, smooth random latents are decoded.
        """
        latents = smooth_latents(self.latent_shape) if latents is None else latents
        self.register_to_config(preview_weights=preview_weights(self.vae, latents))

    @property
    def _preview_weights(self) -> Tensor:
        if self.config.preview_weights is None:
            self.fit_preview()
        return torch.tensor(self.config.preview_weights)


def _given(variables: dict[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """The arguments of a method, of its `locals()`, to hand on: all, or those of these names."""
    return {name: value for name, value in variables.items() if (name != "self" if names is None else name in names)}


MDTPipeline.__module__ = "mdt_core"  # a saved pipeline names the package, whichever file of it holds the class
