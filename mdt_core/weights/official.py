"""Published weights -> our transformer: strict, and without a second copy in memory.

The authors of MDT (arXiv 2303.14389) publish PyTorch files whose key names our modules keep (`transformer.py`), and
DiT's keys are v1's without the masked part. So nothing is renamed here: the version and every size are read off the
shapes, the model is built on the meta device, and the file's memory-mapped tensors become its parameters as they are.

The one thing that shapes do not tell is how many of v1's blocks belong to its decoder: the published models have 2.
"""

import argparse
import math
import re
import zipfile
from pathlib import Path
from statistics import mode
from typing import Any

import safetensors.torch
import torch

from mdt_core.layers import RelativePositionBias
from mdt_core.presets import SIZES, model_config
from mdt_core.transformer import MDT, DiT, MDTTransformer, MDTv2
from mdt_core.weights.hub import listed

V1_DECODER_LAYERS = model_config("MDT-S/2")[1]["decoder_layers"]


class CheckpointError(ValueError):
    """A file that is not one of the models that this code can build; the sentence says why."""


def load_official(path: str | Path, decoder_layers: int | None = None) -> MDTTransformer:
    """Load a published DiT, MDT or MDTv2 checkpoint.

    Args:
        path: a `.pt` or `.safetensors` file with the published keys, flat or under `ema` or `model`, with or
            without the `module.` and `_orig_mod.` of PyTorch's wrappers.
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
        _mend_indices(state, model.grid_size)
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
        packed = _unpacked_size(path) > path.stat().st_size  # PyTorch packs nothing
        content = None if packed else _load(path)
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        raise CheckpointError(
            f"{path}: not readable as a checkpoint of tensors alone (damaged, cut off, or carrying code)"
        ) from error
    if packed:
        raise CheckpointError(f"{path}: its parts are larger than the file: only what torch.save wrote is read")

    for key in ("ema", "model"):
        inner = content.get(key) if isinstance(content, dict) else None
        if isinstance(inner, dict) and inner:
            content = inner
    is_state = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not is_state or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no state dict, neither at its top nor under `ema` or `model`")
    if odd := [key for key, tensor in content.items() if not _is_plain(tensor)]:
        raise CheckpointError(f"{path}: not stored number by number (meta, sparse or repeated): {listed(odd)}")
    plain = {re.sub(r"\b(module|_orig_mod)\.", "", key): value for key, value in content.items()}
    return plain if len(plain) == len(content) else content


def _load(path: Path) -> Any:
    """What a file holds. Raises what its reader does where it is damaged."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # Training scripts keep their arguments beside the weights: a Namespace is data, reading it runs no code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _unpacked_size(path: Path) -> int:
    """Bytes of all files in a zip file; 0 of another file. Raises what the reader of zips does where it is damaged."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as file:
        return sum(part.file_size for part in file.infolist())


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether each of a tensor's numbers is stored: a few bytes could else stand for any amount of memory."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def detect(state: dict[str, torch.Tensor], decoder_layers: int | None = None) -> tuple[type[MDTTransformer], dict]:
    """Read the class and its configuration off the keys and shapes of a state dict.

    Raises:
        ValueError: this is no DiT, MDT or MDTv2, or `decoder_layers` contradicts it.
    """
    in_channels, patch_size = (_sizes(state, "x_embedder.proj.weight", 4, axis)[0] for axis in (1, 2))
    num_classes = _sizes(state, "y_embedder.embedding_table.weight", 2, 0)[0] - 1  # the last row is the null class
    if num_classes == 999:  # so a published table of 1000 rows would be read
        raise ValueError("the class table has 1000 rows: ImageNet's classes without the null class that guidance needs")
    hidden_size = mode(_sizes(state, "attn.qkv.weight", 2, 1))
    mlp_ratio = mode(_sizes(state, "mlp.fc1.weight", 2, 0)) / hidden_size
    model_class, depth, decoder_layers = _detect_version(state, decoder_layers)
    if model_class is DiT:
        tokens, num_heads = _sizes(state, "pos_embed", 3, 1)[0], _heads_of_dit(hidden_size)
    else:
        tokens = mode(_sizes(state, "relative_position_index", 2, 0))
        num_heads = mode(_sizes(state, "relative_position_bias_table", 2, 1))
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


def _sizes(state: dict[str, torch.Tensor], ending: str, dimensions: int, axis: int) -> list[int]:
    """One size of every tensor whose key ends so; the most common one counts, so that an odd tensor alone is wrong."""
    fitting = [t for key, t in state.items() if key.endswith(ending) and t.dim() == dimensions and t.numel()]
    if not fitting:
        held = ", ".join(sorted(state)[:3]) or "no keys"
        raise ValueError(f"no DiT, MDT or MDTv2: {dimensions} dimensions under `{ending}` are needed, not {held}")
    return [t.shape[axis] for t in fitting]


def _detect_version(
    state: dict[str, torch.Tensor], decoder_layers: int | None
) -> tuple[type[MDTTransformer], int, int]:
    """The class, the depth and the number of decoder layers, by the names of the blocks."""

    def count(stack: str) -> int:
        return len({key.split(".")[1] for key in state if key.startswith(f"{stack}.")})

    encoder_half, decoder = max(count("en_inblocks"), count("en_outblocks")), count("de_blocks")
    if encoder_half or decoder:
        if decoder_layers not in (None, decoder):
            raise ValueError(f"the file has {decoder} decoder blocks, not {decoder_layers}")
        return MDTv2, 2 * encoder_half + decoder, decoder
    if count("sideblocks") or {"mask_token", "decoder_pos_embed"} & state.keys():
        return MDT, count("blocks"), V1_DECODER_LAYERS if decoder_layers is None else decoder_layers
    if decoder_layers:
        raise ValueError("a DiT has no decoder blocks: leave decoder_layers out")
    return DiT, count("blocks"), 0


def _heads_of_dit(hidden_size: int) -> int:
    """The number of heads by the width: a DiT has no bias table to read it off."""
    heads = {size.hidden_size: size.num_heads for size in SIZES.values()}
    if hidden_size not in heads:
        raise ValueError(f"a DiT of width {hidden_size}: the number of heads is known for {sorted(heads)} only")
    return heads[hidden_size]


def _mend_indices(state: dict[str, torch.Tensor], grid_size: int) -> None:
    """Put the position index that the grid gives in place of another one, which could reach beyond the bias table."""
    index = RelativePositionBias.offset_index(grid_size)
    for key, value in state.items():
        if key.endswith("relative_position_index") and not torch.equal(value, index):
            state[key] = index


def _matched(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict in the model's own dtypes, or a ValueError that names every kind of mismatch."""
    shared = [key for key in expected if key in state]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in shared
        if state[key].shape != expected[key].shape
    ]
    wrong_type = [key for key in shared if state[key].is_floating_point() != expected[key].is_floating_point()]
    problems = {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "misshapen": misshapen,
        "of another type": wrong_type,
    }
    if any(problems.values()):
        raise ValueError("; ".join(f"{kind}: {listed(keys)}" for kind, keys in problems.items() if keys))
    return {key: state[key].to(expected[key].dtype) for key in expected}
