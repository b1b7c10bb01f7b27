"""The exponential moving average (EMA) of a model's weights."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mdt_core.training.sharding import local_part


class EMA:
    """An exponential moving average of a model's weights; `model` is the averaged copy.

    The decay grows to its full value, min(decay, (1 + k) / (10 + k)) after k updates, so that a short run's
    average forgets its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: float | Tensor, taken: Tensor | bool = True) -> None:
        """Move towards `model`, whose weights are those after `step` steps; nothing where the last was not `taken`."""
        averages, weights = ([local_part(p) for p in each.parameters()] for each in (self.model, model))
        if not isinstance(step, Tensor):  # not `as_tensor`, which a GPU would be waited for
            step = torch.full((), step, dtype=torch.float32, device=averages[0].device)
        rate = ((9 / (10 + step)).clamp(min=1 - self.decay) * taken).to(averages[0].dtype)
        torch._foreach_lerp_(averages, weights, [rate] * len(averages))
