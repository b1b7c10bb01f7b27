"""A short name for what some data hold."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change with any of the parts.

    Args:
        *parts: texts, bytes, tensors and arrays of any shape; iterators of these; anything else as JSON.
    """
    digest = hashlib.sha256()
    for part in parts:
        for piece in part if isinstance(part, Iterator) else (part,):
            digest.update(_to_bytes(piece))
    return digest.hexdigest()[:16]


def named_weights(network: nn.Module, prefix: str = "", only: Iterable[str] = ("",)) -> Iterator[str | Tensor]:
    """The names, each after `prefix`, and the weights of a network in turn; `only`: what the names begin with."""
    for name, weight in sorted(network.state_dict().items()):
        if name.startswith(tuple(only)):
            yield prefix + name
            yield weight


def _to_bytes(piece: Any) -> bytes | memoryview:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | memoryview):
        return piece
    if isinstance(piece, Tensor):
        piece = piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(piece, np.ndarray):
        return np.ascontiguousarray(piece).data.cast("B") if piece.size else b""
    return json.dumps(piece).encode()
