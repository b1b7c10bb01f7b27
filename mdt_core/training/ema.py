"""The exponential moving average (EMA) of a model's weights."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mdt_core.training.sharding import local_part


class EMA:
    """An exponential moving average of a model's weights; `model` is the averaged copy.

    After k steps the decay is min(decay, (1 + k) / (10 + k)), so that a short run's average forgets where it began.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: float | Tensor, taken: Tensor | bool = True) -> None:
        """Move the average towards `model`, which has done `step` steps; not where the last one was not `taken`.

        What does not learn is the same in both, and left alone.
        """
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        learning = [(local_part(average), local_part(weight)) for average, weight in pairs if weight.requires_grad]
        averages, weights = map(list, zip(*learning, strict=True))
        if not isinstance(step, Tensor):  # unlike `as_tensor`, this does not wait for a GPU
            step = torch.full((), step, dtype=torch.float32, device=averages[0].device)
        rate = ((9 / (10 + step)).clamp(min=1 - self.decay) * taken).to(averages[0].dtype)
        torch._foreach_lerp_(averages, weights, [rate] * len(averages))
