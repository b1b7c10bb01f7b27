"""What a model is, in words: the rows that `python -m mdt_core info` prints."""

from pathlib import Path

import diffusers
import torch

from mdt_core.acceleration.machine import devices
from mdt_core.pipeline.open import is_checkpoint, open_pipeline
from mdt_core.samplers import SAMPLERS
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import listed, resolve
from mdt_core.weights.official import load_official


def model_info(source: str | Path) -> dict[str, str]:
    """Rows by name. `source`: what `open_pipeline` opens, or a file of weights alone, which needs no autoencoder.

    Raises:
        ValueError: no model is there, or it cannot be opened.
    """
    path = source if is_checkpoint(source) else resolve(source)
    pipe = None if Path(path).is_file() else open_pipeline(path)
    transformer = pipe.transformer if pipe else load_official(path)
    config = transformer.config
    shape = " x ".join(map(str, (config.in_channels, config.sample_size, config.sample_size)))
    return {
        "model": class_and_size(transformer),
        "blocks": f"{config.depth}, {config.decoder_layers} of them decoder; "
        f"width {config.hidden_size}, {config.num_heads} heads",
        "latents": f"{shape}, patch {config.patch_size}: {transformer.num_tokens} tokens",
        "images": f"{pipe.image_size} px, {type(pipe.vae).__name__}" if pipe else "no autoencoder: convert adds one",
        "classes": f"{config.num_classes}" + (f": {listed(list(pipe.id2label.values()), most=16)}" if pipe else ""),
        "sampling": f"{pipe.sampling_defaults.in_words}, unless you choose others" if pipe else "as published",
        "samplers": ", ".join(SAMPLERS),
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}; devices {', '.join(devices())}",
    }


def class_and_size(transformer: MDTTransformer) -> str:
    """Class and parameters, as the paper counts them: without the side block, which only the masked pass needs."""
    count = {name: parameter.numel() for name, parameter in transformer.named_parameters()}
    side_block = sum(n for name, n in count.items() if name.startswith("sideblocks."))
    total = sum(count.values())
    without = f" ({total - side_block:,} without the side block)" if side_block else ""
    return f"{type(transformer).__name__}, {total:,} parameters{without}"
