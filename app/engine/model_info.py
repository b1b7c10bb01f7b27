"""What there is to know of a model, and what tells one from another."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from app.engine.settings import SAMPLING
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.fingerprint import fingerprint
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.transformer import MDT
from mdt_core.weights.hub import expand

LARGE_MODEL = 100e6  # parameters; above this a CPU is slow enough to begin with few steps
FEW_STEPS = 10


@dataclass(frozen=True)
class ModelInfo:
    """What the page shows of a model."""

    name: str
    architecture: str  # "MDTv2"
    parameters: int
    labels: dict[int, str]
    image_size: int  # pixels
    cells: int  # latent cells along a side
    tokens: int  # along a side
    masked_pass: bool  # whether it has a side-interpolator
    device: str  # "cpu", "cuda"
    dtype: str = "float32"
    distilled: bool = False  # whether it has weights for few steps
    weights: str = ""  # tells whether they are those that a recipe was made with
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)  # a key of SAMPLING -> the model's own value
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # "fast", "balanced", "slow" -> the same

    def __deepcopy__(self, memo: dict) -> Self:
        """It never changes: all visitors share it, and a thousand names of classes with it."""
        return self

    @property
    def slow(self) -> bool:
        """Whether few steps should be suggested."""
        return self.device == "cpu" and self.parameters > LARGE_MODEL


def describe_pipeline(name: str, pipe: Any, device: str, dtype: str) -> ModelInfo:
    """What there is to know of a pipeline. `dtype`: as `pipe.optimize` takes it."""
    config = pipe.transformer.config
    parameters = sum(p.numel() for p in pipe.transformer.parameters())
    chosen = choose_dtype(dtype, torch.device(device), config.hidden_size)
    presets = {name: usable(own) for name, own in getattr(pipe, "sampling_presets", {}).items()}
    info = ModelInfo(
        name=name,
        architecture=type(pipe.transformer).__name__,
        parameters=parameters,
        labels=dict(pipe.id2label),
        image_size=pipe.image_size,
        cells=pipe.latent_shape[-1],
        tokens=pipe.latent_shape[-1] // config.patch_size,
        masked_pass=isinstance(pipe.transformer, MDT),
        device=device,
        dtype=str(chosen).removeprefix("torch."),
        distilled=getattr(pipe, "lora", None) is not None,
        weights=weights_of(pipe),
        sampling_defaults=presets.get("balanced", {}),
        presets=presets,
    )
    if not info.slow:
        return info
    steps = min(FEW_STEPS, info.sampling_defaults.get("num_inference_steps", FEW_STEPS))
    return replace(info, sampling_defaults=info.sampling_defaults | {"num_inference_steps": steps})


def usable(own: SamplingSettings) -> dict[str, Any]:
    """A model's own settings by their keys in SAMPLING, each the nearest that the page can show."""
    return {key: setting.nearest(getattr(own, key)) for key, setting in SAMPLING.items() if hasattr(own, key)}


def weights_of(pipe: Any) -> str:
    """16 hexadecimal digits that change with a model's weights: of a few of each tensor, for training moves all."""
    networks = [part for part in (pipe.transformer, getattr(pipe, "vae", None)) if part is not None]
    weights = (weight.detach().reshape(-1) for network in networks for weight in network.parameters())
    return fingerprint(weight[:: max(1, len(weight) // 16)].float() for weight in weights)


def version_of(location: str) -> int:
    """A number that changes with the files of a model, wherever it lies here; of a hub id always the same."""
    path = expand(location)
    places = [f"{depth}.{kind}" for depth in ("*", "*/*") for kind in ("json", "safetensors")]
    files = [path] if path.is_file() else [file for place in places for file in path.glob(place)]
    try:
        return hash(tuple(sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)))
    except OSError:  # one was replaced at this moment
        return 0
