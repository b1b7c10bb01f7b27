"""The type that matrix products run in: float32, or 16 bits where the device is made for them."""

from copy import deepcopy
from itertools import chain

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Width from which bfloat16 pays on a CPU with AMX. A model 192 wide is faster in float32: its products are
# so small that casting takes longer than they do (train/RESULTS.md).
AMX_PAYS_FROM = 384


def choose_dtype(dtype: str | torch.dtype, device: torch.device, width: int | None = None) -> torch.dtype:
    """The type that matrix products run in: as asked for, or by "auto" bfloat16 where the device is made for it.

    On a CPU that means AMX, and a model that is wide enough: with AVX-512's bfloat16 alone it is slower than float32.

    Args:
        dtype: "auto", one of `DTYPES`, or the name of one.
        device: where the model runs.
        width: of the model; None: wide enough.

    Raises:
        ValueError: there is no such type, or the device cannot use it.
    """
    if dtype == "auto":
        if device.type == "cpu":
            fast = torch.cpu._is_amx_tile_supported() and (width is None or width >= AMX_PAYS_FROM)
        else:
            fast = device.type == "cuda" and _has_bfloat16(device)
        return torch.bfloat16 if fast else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype}")
    if chosen == torch.float16 and device.type == "cpu":
        raise ValueError("float16 needs a GPU: choose float32 or bfloat16 on a CPU")
    return chosen


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies in bfloat16 itself: Nvidia's before Ampere only imitate it, slower than float32."""
    return torch.version.hip is not None or torch.cuda.get_device_properties(device).major >= 8


def lower_products(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A twin of a model, for autocast, whose linear layers hold their weights in `dtype`; all else is shared.

    Autocast would cast these weights anew in every evaluation: on a CPU that takes as long as a quarter of it, and on a
    GPU a small batch waits longer for it than for the products. Later changes of the weights do not reach the twin.
    """
    tensors = chain(model.parameters(), model.buffers())
    twin = deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for layer in twin.modules():
        if isinstance(layer, nn.Linear):
            for name, parameter in layer.named_parameters():
                setattr(layer, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return twin
