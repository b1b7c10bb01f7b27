"""Published weights -> our transformer: strict, and without a second copy in memory.

The authors of MDT publish PyTorch files whose key names our modules keep (`transformer.py`), and DiT's keys are
v1's without the masked part. So nothing is renamed here: the version and every size are read off the shapes, the
model is built on the meta device, and the file's memory-mapped tensors become its parameters as they are.

The one thing that shapes do not tell is how many of v1's blocks belong to its decoder: the published models have 2.
"""

import argparse
import math
import os
import re
import zipfile
from pathlib import Path
from statistics import mode

import huggingface_hub
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from mdt_core.presets import SIZES, model_config
from mdt_core.transformer import MDT, DiT, MDTTransformer, MDTv2

V1_DECODER_LAYERS = model_config("MDT-S/2")[1]["decoder_layers"]

# What to fetch of a hub repository. One holds two models, 5.8 GB together: the newer one, unless a file is named.
PATTERNS = ["*.json", "*.safetensors", "*.pt"]
PATTERNS_OF = {"shgao/MDT-XL2": ["*v2*.pt"]}
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")  # of huggingface_hub.snapshot_download

AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class CheckpointError(ValueError):
    """A file that is not one of the models that this code can build; the sentence says why."""


def load_official(path: str | Path, decoder_layers: int | None = None) -> MDTTransformer:
    """Load a published DiT, MDT or MDTv2 checkpoint.

    Args:
        path: a `.pt` or `.safetensors` file with the published keys, flat or under `ema` or `model`, with or
            without `module.` before each.
        decoder_layers: v1's number of decoder blocks (default 2). For v2 the file tells, and another number is
            an error.

    Returns:
        a `DiT`, `MDT` or `MDTv2` in evaluation mode, float32. Its weights stay in the mapped file until they are moved
        or changed.

    Raises:
        CheckpointError: the file is missing, cannot be read as tensors alone, or is another model; keys are named.
    """
    state = read_state_dict(path)
    try:
        model_class, config = detect(state, decoder_layers)
        with torch.device("meta"):
            model = model_class(**config)
        state = _matched(state, model.state_dict())
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The flat state dict in a file, memory-mapped. Nothing but tensors and plain containers is ever unpickled."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a .pt or .safetensors checkpoint is needed")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            # Training scripts keep their arguments beside the weights: a Namespace is data, reading it runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        raise CheckpointError(
            f"{path}: not readable as a checkpoint of tensors alone (damaged, cut off, or carrying code)"
        ) from error

    for nest in ("ema", "model"):
        inner = content.get(nest) if isinstance(content, dict) else None
        if isinstance(inner, dict) and inner:
            content = inner
    is_state = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not is_state or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no state dict, neither at its top nor under `ema` or `model`")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content


def detect(state: dict[str, torch.Tensor], decoder_layers: int | None = None) -> tuple[type[MDTTransformer], dict]:
    """Read the class and its configuration off the keys and shapes of a state dict.

    Raises:
        ValueError: this is no DiT, MDT or MDTv2, or `decoder_layers` contradicts it.
    """

    def sizes(ending: str, dimensions: int, axis: int) -> list[int]:
        """One size of every tensor whose key ends so: they vote, so that a single odd one is named as misshapen."""
        fitting = [t for key, t in state.items() if key.endswith(ending) and t.dim() == dimensions and t.numel()]
        found = [t.shape[axis] for t in fitting]
        if not found:
            held = ", ".join(sorted(state)[:3]) or "no keys"
            raise ValueError(f"no DiT, MDT or MDTv2: {dimensions} dimensions under `{ending}` are needed, not {held}")
        return found

    def count(blocks: str) -> int:
        return len({key.split(".")[1] for key in state if key.startswith(f"{blocks}.")})

    in_channels, patch_size = (sizes("x_embedder.proj.weight", 4, axis)[0] for axis in (1, 2))
    num_classes = sizes("y_embedder.embedding_table.weight", 2, 0)[0] - 1  # the last row is the null class
    hidden_size = mode(sizes("attn.qkv.weight", 2, 1))
    mlp_ratio = mode(sizes("mlp.fc1.weight", 2, 0)) / hidden_size

    encoder_half, decoder_blocks = max(count("en_inblocks"), count("en_outblocks")), count("de_blocks")
    if encoder_half or decoder_blocks:
        model_class, depth = MDTv2, 2 * encoder_half + decoder_blocks
        if decoder_layers not in (None, decoder_blocks):
            raise ValueError(f"the file has {decoder_blocks} decoder blocks, not {decoder_layers}")
        decoder_layers = decoder_blocks
    elif count("sideblocks") or {"mask_token", "decoder_pos_embed"} & state.keys():
        model_class, depth = MDT, count("blocks")
        decoder_layers = V1_DECODER_LAYERS if decoder_layers is None else decoder_layers
    else:
        model_class, depth = DiT, count("blocks")
        if decoder_layers:
            raise ValueError("a DiT has no decoder blocks: leave decoder_layers out")
        decoder_layers = 0

    if model_class is DiT:  # no table to count the heads in
        tokens = sizes("pos_embed", 3, 1)[0]
        widths = {size.hidden_size: size.num_heads for size in SIZES.values()}
        if hidden_size not in widths:
            raise ValueError(f"a DiT of width {hidden_size}: the number of heads is known for {sorted(widths)} only")
        num_heads = widths[hidden_size]
    else:
        tokens = mode(sizes("relative_position_index", 2, 0))
        num_heads = mode(sizes("relative_position_bias_table", 2, 1))
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"made for {tokens} tokens, which is no square grid")

    return model_class, {
        "sample_size": math.isqrt(tokens) * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
        "num_classes": num_classes,
        "decoder_layers": decoder_layers,
    }


def _matched(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict in the model's own dtypes, or a ValueError that names every kind of mismatch."""
    both = [key for key in expected if key in state]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in both
        if state[key].shape != expected[key].shape
    ]
    wrong_kind = [key for key in both if state[key].is_floating_point() != expected[key].is_floating_point()]
    problems = {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "misshapen": misshapen,
        "of another type": wrong_kind,
    }
    if any(problems.values()):
        raise ValueError("; ".join(f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys))
    return {key: state[key].to(expected[key].dtype) for key in expected}


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- where a model lies ------------------------------------------------------------------------------------


def one_line(error: Exception) -> str:
    """What a library's error says, in one line that is not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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
        return _choose(path)
    hub_id = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?", str(model))
    if hub_id is None:
        raise ValueError(f"{model}: no such file or folder, and not a hub id ORG/NAME either")
    repository, file = hub_id.groups()
    if file and Path(repository).is_dir():
        raise ValueError(f"{model}: no such file or folder")
    return _fetch(repository, file, hub)


def _choose(folder: Path) -> Path:
    if (folder / "model_index.json").is_file():
        return folder
    files = sorted(file for file in folder.iterdir() if file.suffix in (".pt", ".safetensors"))
    newest = [file for file in files if "v2" in file.name] or files
    if not newest:
        raise ValueError(f"{folder}: holds neither a model_index.json nor a .pt or .safetensors file")
    if len(newest) > 1:
        raise ValueError(f"{folder}: holds {_listed([file.name for file in newest])}; name one, as in {newest[0]}")
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


def _fetch(repository: str, file: str | None, hub: dict) -> Path:
    """The pipeline folder or checkpoint file of a hub repository."""
    folder = download(repository, [file] if file else PATTERNS_OF.get(repository, PATTERNS), **hub)
    if file is None:
        return _choose(folder)
    if not (folder / file).is_file():
        raise ValueError(f"{repository}: holds no file {file} on the hub")
    return folder / file


# --- autoencoders ----------------------------------------------------------------------------------------


def open_autoencoder(source: str | Path, **hub) -> AutoencoderKL | AutoencoderTiny:
    """An autoencoder of either class from a local folder or a hub id.

    `hub`: HUB_OPTIONS, for a hub id.

    Raises:
        ValueError: nothing is there, the hub does not give it, it is damaged, or of another class.
    """
    folder = Path(source) if Path(source).is_dir() else download(str(source), ["*.json", "*.safetensors"], **hub)
    try:
        kind = AutoencoderKL.load_config(folder).get("_class_name")
        if kind not in AUTOENCODERS:
            raise ValueError(f"it holds a {kind}; {' or '.join(AUTOENCODERS)} is needed")
        vae = AUTOENCODERS[kind].from_pretrained(folder)
        if lacking := missing_weight(vae):
            raise ValueError(f"it lacks {lacking}")
    except Exception as error:  # damaged, half written, foreign: the readers have no common base class
        raise ValueError(f"the autoencoder {source} cannot be opened: {one_line(error)}") from error
    return vae.eval()


def missing_weight(network: torch.nn.Module) -> str | None:
    """The first weight that a network's file did not hold: diffusers leaves it without numbers."""
    return next((name for name, tensor in network.state_dict().items() if tensor.is_meta), None)
