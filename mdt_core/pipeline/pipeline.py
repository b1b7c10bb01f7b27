"""The pipeline: class labels and seeds in, pictures out, every step on the way to be seen.

A diffusers pipeline of two components, `transformer` and `vae`. `stream` yields each step and is the one path
that the command line, the browser and `__call__` take. Every image has its own seed: its picture does not
depend on the batch it is made in, but for rounding on a GPU in 16 bits.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from torch import Tensor

from mdt_core.acceleration.cached_conditioning import CachedModel
from mdt_core.acceleration.compiled_blocks import compile_blocks
from mdt_core.acceleration.cuda_graphs import CudaGraph
from mdt_core.acceleration.precision import choose_dtype, lower_products, one_by_one
from mdt_core.autoencoder import downscale
from mdt_core.guidance import Guided, guide
from mdt_core.pipeline.inpaint import Repainting
from mdt_core.pipeline.labels import ClassLabel, as_list, class_index, whole
from mdt_core.pipeline.outputs import Images, MDTPipelineOutput, Pictures, PipelineStep
from mdt_core.samplers import Step, generators, initial_latents, sample, sampling_timesteps
from mdt_core.saved_config import tidy_config
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import HUB_OPTIONS, missing_weight, one_line, open_autoencoder, our_classes, resolve
from mdt_core.weights.official import load_official

IMAGENET_CLASSES = Path(__file__).with_name("imagenet_classes.json")
SMALL_BATCH = 8  # images, both branches counted: below, a GPU waits for launches


class MDTPipeline(Repainting, Pictures, DiffusionPipeline):
    """Class-conditional image generation with a (masked) diffusion transformer.

    Args:
        transformer: the model.
        vae: the autoencoder, an `AutoencoderKL` or `AutoencoderTiny`.
        id2label: class index -> name; names are "class 0", "class 1", ... where there are none.
        preview_weights: (3 b^2, C + 1) nested lists, the linear map of `mdt_core.autoencoder.fit_preview`; fitted
            when first needed if absent.
        guidance_channels: epsilon channels that guidance acts on by default; 3 as published, None for all.
    """

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
        self.compute_dtype = torch.float32  # what matrix products run in
        self._twin, self._cuda_graphs = None, False

    # --- opening a model -----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "MDTPipeline":
        """Open a local folder, a published checkpoint file, or a hub id that holds either.

        Args:
            pretrained_model_name_or_path: see `mdt_core.weights.official.resolve`.
            **kwargs: `revision`, `cache_dir`, `token` and `local_files_only` say how to fetch a hub id. A folder takes
                what diffusers takes, such as components in place of its own; a published file what `from_official`
                takes.

        Raises:
            ValueError: nothing is there, it is damaged, it is not a model of this family, or an argument is not for it.
        """
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        path = resolve(pretrained_model_name_or_path, **hub)
        if path.is_file():
            if foreign := kwargs.keys() - {"vae", "decoder_layers"}:
                raise ValueError(f"{path} is a published file, to be opened without {', '.join(sorted(foreign))}")
            hub.pop("revision", None)  # the model's, not the autoencoder's
            return cls.from_official(path, **kwargs, **hub)
        try:
            name = cls.load_config(path)["_class_name"]
            if name != cls.__name__:
                raise ValueError(f"it holds a {name}, not an {cls.__name__}")
            pipe = super().from_pretrained(path, **kwargs)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # damaged, half written, foreign: the readers have no common base class
            raise ValueError(f"{path} cannot be opened: {one_line(error)}") from error
        networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
        for name, part in networks.items():
            if lacking := missing_weight(part):
                raise ValueError(f"{path} cannot be opened: {name} lacks {lacking}")
        return pipe

    @classmethod
    def load_config(cls, *args, **kwargs) -> dict:
        """diffusers' `load_config`. An exported folder is opened by this class, not by the code that it brings."""
        return our_classes(super().load_config(*args, **kwargs))

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """diffusers' `save_pretrained`; the folder keeps no path of this machine."""
        super().save_pretrained(save_directory, **kwargs)
        tidy_config(Path(save_directory) / self.config_name)
        tidy_config(Path(save_directory) / "vae" / self.vae.config_name)

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        vae: str | Path | AutoencoderKL | AutoencoderTiny | None = None,
        decoder_layers: int | None = None,
        **hub,
    ) -> "MDTPipeline":
        """A published .pt or .safetensors file and an autoencoder (it, a folder or a hub id; else `default_vae`).

        `hub`: HUB_OPTIONS, for the autoencoder's hub id.

        Raises:
            ValueError: the file is no such checkpoint, or the autoencoder cannot be had or does not fit.
        """
        transformer = load_official(path, decoder_layers=decoder_layers)
        autoencoder = vae if isinstance(vae, torch.nn.Module) else open_autoencoder(vae or cls.default_vae, **hub)
        if autoencoder.config.latent_channels != transformer.config.in_channels:
            raise ValueError(
                f"the autoencoder has {autoencoder.config.latent_channels} latent channels, "
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
        """The index of a class given by index or name, as `mdt_core.pipeline.labels.class_index` finds it."""
        return class_index(label, self.id2label)

    # --- speed ---------------------------------------------------------------------------------------------

    def optimize(
        self, compile: bool = False, dtype: str | torch.dtype = "auto", cuda_graphs: bool = True
    ) -> "MDTPipeline":
        """`pipe.optimize(...)`: choose how the model is evaluated from now on; once, before the first picture.

        A pipeline that was never told runs in float32 as it is; that is what the paper's figures are made with.

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
        self.compute_dtype = choose_dtype(dtype, self.device, self.transformer.config.hidden_size)
        lowered = self.compute_dtype != torch.float32
        self._twin = lower_products(self.transformer, self.compute_dtype) if lowered else None
        self._cuda_graphs = cuda_graphs
        if compile:
            compile_blocks(self._twin or self.transformer)
        return self

    def to(self, *args, **kwargs) -> "MDTPipeline":
        """As diffusers' pipelines. On another device, or in another type, call `optimize` again."""
        before = self.device, self.transformer.dtype
        super().to(*args, **kwargs)
        if (self.device, self.transformer.dtype) != before:
            self.compute_dtype, self._twin, self._cuda_graphs = torch.float32, None, False
        return self

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
        timesteps = sampling_timesteps(sampler, num_inference_steps)
        if output_type not in ("pil", "latent"):
            raise ValueError(f'output_type must be "pil" or "latent", not {output_type!r}')
        drawn = initial_latents(rngs, self.latent_shape)  # also where others are given: a step's noise is never that
        if latents is None:
            latents = drawn
        elif tuple(latents.shape) != (len(seeds), *self.latent_shape):
            raise ValueError(f"latents must be {(len(seeds), *self.latent_shape)}, not {tuple(latents.shape)}")
        denoise = self._guided(
            class_labels,
            timesteps,
            len(seeds),
            guidance_scale,
            guidance_power,
            guidance_channels,
            skip_tolerance,
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
        timesteps: Sequence[int],
        count: int,
        guidance_scale: float,
        guidance_power: float,
        guidance_channels: int | str | None,
        skip_tolerance: float,
    ) -> Guided:
        """The model with `count` labels, the timesteps to come and guidance bound to it."""
        labels = as_list(class_labels)
        if len(labels) not in (1, count):
            raise ValueError(f"{len(labels)} class labels do not go with {count} seeds: give one per image")
        indices = [self.class_index(label) for label in labels] * (count // len(labels))
        graphs = self._cuda_graphs and self.device.type == "cuda" and 2 * count <= SMALL_BATCH
        model = CachedModel(
            self._twin or self.transformer,
            timesteps,
            [*indices, self.num_classes],
            wrap=partial(CudaGraph, device=self.device) if graphs else None,
        )

        def evaluate(x_t: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
            dtype = self.compute_dtype
            # A graph must not be recorded with weights that autocast cached and will drop.
            lower = dtype != torch.float32 and torch.autocast(self.device.type, dtype, cache_enabled=not graphs)
            with lower or nullcontext():
                return model(x_t.to(self.transformer.dtype), timesteps, class_labels, keep).to(x_t.dtype)

        # On a CPU a product in 16 bits rounds to other numbers in a batch than alone.
        alone = self.device.type == "cpu" and {self.compute_dtype, self.transformer.dtype} != {torch.float32}
        return guide(
            one_by_one(evaluate) if alone else evaluate,
            torch.tensor(indices, device=self.device),
            null_class=self.num_classes,
            guidance_scale=guidance_scale,
            guidance_power=guidance_power,
            guidance_channels=self.config.guidance_channels if guidance_channels == "config" else guidance_channels,
            skip_tolerance=skip_tolerance,
        )

    def _seeds(self, class_labels: ClassLabel | Sequence[ClassLabel], seeds: int | Sequence[int] | None) -> list[int]:
        """One seed per image: as given, one for all labels, or drawn at random."""
        count = len(as_list(class_labels))
        if not count:
            raise ValueError("class_labels is empty: give at least one, None for an image of no class")
        if seeds is None:
            return torch.randint(2**31, (count,)).tolist()
        seeds = [whole(seed, "a seed") for seed in as_list(seeds)]
        if not seeds:
            raise ValueError("seeds is empty: give one per image, or None")
        return seeds * count if len(seeds) == 1 else seeds


MDTPipeline.__module__ = "mdt_core"  # a saved pipeline names the package, whichever file of it holds the class
