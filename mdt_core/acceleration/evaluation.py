"""How a model is evaluated while a pipeline samples: precision, compiled blocks, CUDA graphs, one answer per image."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from mdt_core.acceleration.batch_invariance import batch_invariant
from mdt_core.acceleration.cached_conditioning import CachedModel, versions
from mdt_core.acceleration.compiled_blocks import compile_blocks
from mdt_core.acceleration.cuda_graphs import CudaGraph
from mdt_core.acceleration.precision import lower_products
from mdt_core.lora import LoRA, merge_lora
from mdt_core.transformer import MDTTransformer

SMALL_BATCH = 8  # images, both branches counted: below, a GPU waits for launches


class Evaluation:
    """How one model is evaluated.

    Args:
        model: the transformer.
        dtype: what matrix products run in.
        compile: compile its blocks, for good.
        cuda_graphs: on a GPU, replay the launches of small batches.
    """

    def __init__(
        self,
        model: MDTTransformer,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        cuda_graphs: bool = False,
    ):
        self.model, self.dtype, self.compile, self.cuda_graphs = model, dtype, compile, cuda_graphs
        self.lowered = None if dtype == torch.float32 else lower_products(model, dtype)
        if compile:
            compile_blocks(self.lowered or model)
        self.invariant: dict[tuple, bool] = {}
        self.merged: tuple[LoRA, list, Evaluation] | None = None

    def merged_with(self, lora: LoRA) -> "Evaluation":
        """How the model with a low-rank addition is evaluated, by the same options; the last one is kept."""
        weights = versions(self.model.parameters())
        if self.merged is None or self.merged[0] is not lora or self.merged[1] != weights:
            model = merge_lora(self.model, lora)
            self.merged = lora, weights, Evaluation(model, self.dtype, self.compile, self.cuda_graphs)
        return self.merged[2]

    def for_trajectory(
        self, timesteps: Sequence[int], class_labels: Sequence[int] | Tensor, batch_size: int
    ) -> Callable[..., Tensor]:
        """`model(x, timesteps, class_labels, keep=None)` for the timesteps and labels to come, float32 in and out.

        Args:
            timesteps: those to come, in their order; in a call they are all equal, and best on the CPU.
            class_labels: those to come, null class included; weights (L, num_classes + 1) where classes are mixed.
            batch_size: rows of x, both branches of guidance counted.
        """
        device = self.model.device
        graphs = self.cuda_graphs and device.type == "cuda" and batch_size <= SMALL_BATCH
        wrap = partial(CudaGraph, device=device) if graphs else None
        cached = CachedModel(self.lowered or self.model, timesteps, class_labels, wrap=wrap)
        autocast = nullcontext()
        if self.dtype != torch.float32:
            # A graph must not be recorded with weights that autocast cached and will drop.
            autocast = torch.autocast(device.type, self.dtype, cache_enabled=not graphs)

        def evaluate(x_t: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
            with autocast:
                return cached(x_t.to(self.model.dtype), timesteps, class_labels, keep).to(x_t.dtype)

        return batch_invariant(evaluate, self.invariant) if device.type == "cpu" else evaluate
