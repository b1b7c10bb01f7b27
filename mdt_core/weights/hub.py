"""Where a model lies, here or on the hub: any source -> a local folder or file."""

import os
import re
from pathlib import Path

import huggingface_hub
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

# What to fetch of a hub repository. The authors' holds two models, 5.8 GB together: of it the newer one alone.
PATTERNS = ["*.json", "*.safetensors", "*.pt"]
PATTERNS_OF = {"shgao/MDT-XL2": ["*v2*.pt"]}
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")  # of huggingface_hub.snapshot_download
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def one_line(error: Exception) -> str:
    """What a library's error says, in one line that is not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def listed(names: list[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def expand(source: str | Path) -> Path:
    """A path with its `~` spelt out. One of an unknown user stays as it is: nothing will be found there."""
    return Path(os.path.expanduser(source))


def resolve(model: str | Path, **hub) -> Path:
    """Find a model: a diffusers pipeline folder, or one published file.

    Args:
        model: a local file or folder, a hub id `ORG/NAME`, or `ORG/NAME/FILE` for one file of it. A folder, here or on
            the hub, holds either form.
        **hub: HUB_OPTIONS, for a hub id.

    Returns:
        the local folder with a `model_index.json`, or the local checkpoint file.

    Raises:
        ValueError: nothing is there, the hub cannot be reached, or the choice is not clear.
    """
    path = expand(model)
    if path.is_file():
        return path
    if path.is_dir():
        return _model_in(path)
    hub_id = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?", str(model))
    if hub_id is None:
        raise ValueError(f"{model}: no such file or folder, and not a hub id ORG/NAME either")
    repository, file = hub_id.groups()
    if file and Path(repository).is_dir():
        raise ValueError(f"{model}: no such file or folder")
    folder = download(repository, [file] if file else PATTERNS_OF.get(repository, PATTERNS), **hub)
    if file is None:
        return _model_in(folder)
    if not (folder / file).is_file():
        raise ValueError(f"{repository}: holds no file {file} on the hub")
    return folder / file


def _model_in(folder: Path) -> Path:
    """The folder itself, if it is a pipeline's, or the one checkpoint file in it; of several, the one of version 2."""
    if (folder / "model_index.json").is_file():
        return folder
    files = sorted(file for file in folder.iterdir() if file.suffix in (".pt", ".safetensors"))
    newest = [file for file in files if "v2" in file.name] or files
    if not files:
        raise ValueError(f"{folder}: holds neither a model_index.json nor a .pt or .safetensors file")
    if len(newest) > 1:
        raise ValueError(f"{folder}: holds {listed([file.name for file in newest])}; name one, as in {newest[0]}")
    return newest[0]


def download(repository: str, patterns: list[str], **hub) -> Path:
    """Download the files of a hub repository that match; what is in the cache already is not fetched again.

    `hub`: HUB_OPTIONS.

    Raises:
        ValueError: the hub cannot be reached, or does not give this repository.
    """
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns, **hub))
    except Exception as error:  # unreachable, offline, unknown, private: the hub's transports have no common base class
        raise ValueError(
            f"{repository}: no such local folder, and the hub did not give it ({one_line(error)})"
        ) from error


def our_classes(config: dict) -> dict:
    """A pipeline's configuration with the classes of this package, whichever file of whose code it names.

    A folder that was exported names the code beside it, one that plain diffusers saved from it a module of its cache.
    """
    if isinstance(name := config.get("_class_name"), list):
        config["_class_name"] = name[1]
    if isinstance(transformer := config.get("transformer"), list):
        config["transformer"] = ["mdt_core", transformer[1]]
    return config


def open_autoencoder(source: str | Path, **hub) -> AutoencoderKL | AutoencoderTiny:
    """An autoencoder of either class: from its folder, from a folder that has it in vae/, or from a hub id.

    A pipeline has it there, and so has the run folder of an autoencoder's training once that is over.

    `hub`: HUB_OPTIONS, for a hub id.

    Raises:
        ValueError: nothing is there, the hub does not give it, it is damaged, or of another class.
    """
    folder = expand(source)
    folder = folder if folder.is_dir() else download(str(source), ["*.json", "*.safetensors"], **hub)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        kind = AutoencoderKL.load_config(folder).get("_class_name")
        if kind not in AUTOENCODERS:
            held = f"a {kind}" if kind else "none, or none yet"
            raise ValueError(f"it holds {held}; {' or '.join(AUTOENCODERS)} is needed")
        vae = AUTOENCODERS[kind].from_pretrained(folder)
        if lacking := missing_weight(vae):
            raise ValueError(f"it lacks {lacking}")
    except Exception as error:  # damaged, half written, foreign: the readers have no common base class
        raise ValueError(f"the autoencoder {source} cannot be opened: {one_line(error)}") from error
    return vae.eval()


def missing_weight(network: torch.nn.Module) -> str | None:
    """The first weight that a network's file did not hold: diffusers leaves it without numbers."""
    return next((name for name, tensor in network.state_dict().items() if tensor.is_meta), None)
