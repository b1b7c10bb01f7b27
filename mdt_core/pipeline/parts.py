"""What a pipeline is made of: the parts of a published file, and a folder read with all its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline

from mdt_core.presets import DEFAULT_VAE
from mdt_core.weights.hub import missing_weight, one_line, open_autoencoder
from mdt_core.weights.official import load_official

IMAGENET_CLASSES = Path(__file__).with_name("imagenet_classes.json")
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def published_parts(
    path: Path,
    hub: dict[str, Any],
    vae: str | Path | AutoencoderKL | AutoencoderTiny | None = None,
    decoder_layers: int | None = None,
    **foreign: Any,
) -> dict[str, Any]:
    """A published file's transformer, an autoencoder that fits, and ImageNet's class names where there are 1000.

    Args:
        path: a .pt or .safetensors file.
        hub: HUB_OPTIONS, for the autoencoder's hub id.
        vae: an autoencoder, its folder or hub id; else the one that the published models are used with.
        decoder_layers: v1's number of decoder blocks.
        **foreign: nothing.

    Raises:
        ValueError: the file is no such checkpoint, the autoencoder cannot be had or does not fit, or there is an
            argument that only a folder takes.
    """
    if foreign:
        raise ValueError(f"{path} is a published file, to be opened without {', '.join(sorted(foreign))}")
    transformer = load_official(path, decoder_layers=decoder_layers)
    if not isinstance(vae, torch.nn.Module):
        of_model = {key: value for key, value in hub.items() if key != "revision"}  # that is the model's
        vae = open_autoencoder(vae or DEFAULT_VAE, **of_model)
    if vae.config.latent_channels != transformer.config.in_channels:
        raise ValueError(
            f"the autoencoder has {vae.config.latent_channels} latent channels, "
            f"the model {transformer.config.in_channels}: choose another --vae"
        )
    names = json.loads(IMAGENET_CLASSES.read_text()) if transformer.config.num_classes == 1000 else None
    return {"transformer": transformer, "vae": vae, "id2label": names}


def read_folder(folder: Path, cls: type[Pipeline], read: Callable[[], Pipeline]) -> Pipeline:
    """The pipeline that `read` makes of a folder, if it is one of this class with every weight.

    Raises:
        ValueError: it is damaged, half written, or of another class.
    """
    try:
        name = cls.load_config(folder)["_class_name"]
        if name != cls.__name__:
            raise ValueError(f"it holds a {name}, not an {cls.__name__}")
        pipe = read()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged, half written, foreign: the readers have no common base class
        raise ValueError(f"{folder} cannot be opened: {one_line(error)}") from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and (lacking := missing_weight(part)):
            raise ValueError(f"{folder} cannot be opened: {name} lacks {lacking}")
    return pipe
