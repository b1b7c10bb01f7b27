"""What `MDTPipeline.optimize` chooses from: the type of matrix products, and CUDA graphs."""

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The type that matrix products run in: as asked for, or by "auto" bfloat16 where the device is made for it.

    On a CPU that means AMX: with AVX-512's bfloat16 alone it is slower than float32.

    Raises:
        ValueError: there is no such type, or the device cannot use it.
    """
    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast and device.type in ("cpu", "cuda") else torch.float32
    dtype = DTYPES.get(dtype, dtype)
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype}")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("float16 needs a GPU: choose float32 or bfloat16 on a CPU")
    return dtype


class CudaGraph:
    """A function of tensors whose launches are recorded once per set of shapes and then replayed as one.

    For small batches, where launching takes longer than computing. Weights may change in place, not move.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self.recorded: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        shapes = tuple(None if a is None else tuple(a.shape) for a in arguments)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record([None if a is None else a.clone() for a in arguments])
        graph, inputs, output = self.recorded[shapes]
        for mine, given in zip(inputs, arguments, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()
        return output.clone()

    def _record(self, inputs: list[Tensor | None]) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in a first run, which must not be recorded
            self.function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.function(*inputs)
        return graph, inputs, output
