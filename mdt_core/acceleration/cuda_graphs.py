"""CUDA graphs: a function's launches on a GPU are recorded once and replayed as one."""

from collections.abc import Callable

import torch
from torch import Tensor

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
        self.warm: set[tuple] = set()  # shapes that were run once
        self.recorded: dict[tuple, Recording] = {}

    def __call__(self, *arguments: Tensor | float | None) -> Tensor | dict[str, Tensor]:
        """The function of these arguments; what is given back is the caller's to keep."""
        shapes = tuple(None if a is None else tuple(torch.as_tensor(a).shape) for a in arguments)
        with torch.cuda.device(self.device):  # a stream belongs to the current device
            if shapes not in self.warm:
                self.warm.add(shapes)
                return self._run([self._own(a) for a in arguments])
            if shapes not in self.recorded:
                self.recorded[shapes] = self._record([self._own(a) for a in arguments])
            graph, inputs, output = self.recorded[shapes]
            for recorded_input, argument in zip(inputs, arguments, strict=True):
                if isinstance(argument, Tensor):
                    recorded_input.copy_(argument)
                elif argument is not None:
                    recorded_input.fill_(argument)
            graph.replay()
            return {name: each.clone() for name, each in output.items()} if isinstance(output, dict) else output.clone()

    def _own(self, argument: Tensor | float | None) -> Tensor | None:
        """A copy on the GPU, whose address a recording holds; a number becomes a tensor without a dimension."""
        if argument is None or isinstance(argument, Tensor):
            return None if argument is None else argument.clone()
        return torch.full((), argument, device=self.device)

    def _run(self, inputs: list[Tensor | None]) -> Tensor | dict[str, Tensor]:
        """Unrecorded, but on the stream that will record: autograd runs a backward on the stream of its forward."""
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
