"""What makes a model faster: the type of matrix products, compiled blocks, and CUDA graphs."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from mdt_core.layers import Block

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Width from which bfloat16 pays on a CPU with AMX. A model 192 wide is faster in float32: its products are
# so small that casting takes longer than they do (train/RESULTS.md).
AMX_PAYS_FROM = 384
COMPILED_KINDS = 32  # of a block, before torch gives up and runs what is left uncompiled


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
    dtype = DTYPES.get(dtype, dtype)
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype}")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("float16 needs a GPU: choose float32 or bfloat16 on a CPU")
    return dtype


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies in bfloat16 itself: Nvidia's before Ampere only imitate it, slower than float32."""
    return torch.version.hip is not None or torch.cuda.get_device_properties(device).major >= 8


def lower_products(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A twin of a model, for autocast, whose linear layers hold their weights in `dtype`; all else is shared.

    Autocast would cast these weights anew in every evaluation: on a CPU that takes as long as a quarter of it, and on a
    GPU a small batch waits longer for it than for the products. The twin knows nothing of later changes to them.
    """
    tensors = chain(model.parameters(), model.buffers())
    twin = deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for layer in twin.modules():
        if isinstance(layer, nn.Linear):
            for name, parameter in layer.named_parameters():
                setattr(layer, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return twin


def compile_blocks(model: nn.Module) -> None:
    """Compile the one function that all blocks of a model are, in place; no weight changes its name.

    It is compiled anew for each kind of call: with and without shortcut, queries, gradient, and a bias of each image's
    own; for one image, two, and any number.
    """
    torch._dynamo.config.recompile_limit = max(COMPILED_KINDS, torch._dynamo.config.recompile_limit)
    forward = torch.compile(Block.forward)
    for block in model.modules():
        if isinstance(block, Block):
            block.forward = partial(forward, block)


def one_by_one(model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`model(x, timesteps, class_labels, keep=None)`, given the images of a batch one at a time.

    The order in which a product adds up hangs on the number of its rows. In float32 nobody sees it; in 16 bits it
    rounds to another picture, beside other pictures than alone.
    """

    def evaluate(x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        batch = x, timesteps, class_labels, keep
        parts = [[None] * len(x) if each is None else each.split(1) for each in batch]
        return torch.cat([model(*image) for image in zip(*parts, strict=True)])

    return evaluate


Recording = tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor | dict[str, Tensor]]  # its inputs and its output


class CudaGraph:
    """A function of tensors whose launches are recorded once per set of shapes and then replayed as one.

    For what takes longer to launch than to compute: small batches, and whole training steps of a small model. The first
    call with a set of shapes runs as it is, which lets libraries set themselves up; the second is recorded. So a
    function that changes something, as a training step does, changes it once per call.

    Args:
        function: of tensors, numbers and Nones. It waits for nothing and draws from the default generator alone; what
            it changes may change in place, not move. Gives a tensor, or tensors by name.
        device: the GPU.
    """

    def __init__(self, function: Callable[..., Tensor | dict[str, Tensor]], device: torch.device):
        self.function, self.device = function, device
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self.met: set[tuple] = set()  # shapes
        self.recorded: dict[tuple, Recording] = {}

    def __call__(self, *arguments: Tensor | float | None) -> Tensor | dict[str, Tensor]:
        shapes = tuple(None if a is None else tuple(torch.as_tensor(a).shape) for a in arguments)
        with torch.cuda.device(self.device):  # streams are the current one's
            if shapes not in self.met:
                self.met.add(shapes)
                return self._run([self._own(a) for a in arguments])
            if shapes not in self.recorded:
                self.recorded[shapes] = self._record([self._own(a) for a in arguments])
            graph, inputs, output = self.recorded[shapes]
            for mine, given in zip(inputs, arguments, strict=True):
                if isinstance(given, Tensor):
                    mine.copy_(given)
                elif given is not None:
                    mine.fill_(given)
            graph.replay()
            return {name: each.clone() for name, each in output.items()} if isinstance(output, dict) else output.clone()

    def _own(self, argument: Tensor | float | None) -> Tensor | None:
        """A copy on the GPU, whose place a recording can know; a number becomes a tensor without a dimension."""
        if argument is None or isinstance(argument, Tensor):
            return None if argument is None else argument.clone()
        return torch.full((), argument, device=self.device)

    def _run(self, inputs: list[Tensor | None]) -> Tensor | dict[str, Tensor]:
        """Unrecorded, but on the stream that is to be recorded: autograd remembers it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            output = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return output

    def _record(self, inputs: list[Tensor | None]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        # One pool for all shapes: what a recording gives is copied before another may be replayed.
        with torch.cuda.graph(graph, stream=self.stream, pool=self.pool):
            output = self.function(*inputs)
        return graph, inputs, output


def recorded(function: Callable[..., Tensor | dict[str, Tensor]], device: torch.device) -> Callable:
    """The function as a `CudaGraph` on a GPU; as it is anywhere else."""
    return CudaGraph(function, device) if device.type == "cuda" else function
