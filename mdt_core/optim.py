"""Adan and the exponential moving average of weights."""

from copy import deepcopy

import adan_pytorch
import torch
from torch import Tensor, nn


class Adan(adan_pytorch.Adan):
    """Adan (arXiv 2208.06677, algorithm 1) on the class and state of `adan-pytorch`, with the step corrected.

    `adan-pytorch` leaves the moments at zero in the first step and divides by one sample's second moment in
    the second: an update of hundreds of learning rates. Here the first step counts, with no difference term,
    and all three moments are bias-corrected, as in the authors' code. `betas` are the paper's: the weight of
    the *new* gradient, so (0.02, 0.08, 0.01) is what other optimizers call (0.98, 0.92, 0.99).
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_step: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = 0
                        state |= {moment: torch.zeros_like(parameter) for moment in ("m", "v", "n")}
                        state["prev_grad"] = parameter.grad.clone()  # so that the first difference is zero
                    by_step.setdefault(state["step"], []).append(parameter)
            for parameters in by_step.values():
                self._step(group, parameters)
        return loss

    def _step(self, group: dict, parameters: list[nn.Parameter]) -> None:
        """Algorithm 1, lines 3 to 8, for parameters that have seen equally many steps."""
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        b1, b2, b3 = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        m, v, n, previous = ([state[key] for state in states] for key in ("m", "v", "n", "prev_grad"))
        gradients = [parameter.grad for parameter in parameters]
        k = states[0]["step"] + 1

        difference = torch._foreach_sub(gradients, previous)
        torch._foreach_lerp_(m, gradients, b1)
        torch._foreach_lerp_(v, difference, b2)
        torch._foreach_mul_(difference, 1 - b2)
        torch._foreach_add_(difference, gradients)  # g_k + (1 - b2)(g_k - g_{k-1})
        torch._foreach_mul_(n, 1 - b3)
        torch._foreach_addcmul_(n, difference, difference, b3)

        c1, c2, c3 = (1 - (1 - beta) ** k for beta in (b1, b2, b3))  # bias corrections
        scale = torch._foreach_div(n, c3)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, eps)
        torch._foreach_addcdiv_(parameters, m, scale, -lr / c1)
        torch._foreach_addcdiv_(parameters, v, scale, -lr * (1 - b2) / c2)
        if decay:
            torch._foreach_div_(parameters, 1 + lr * decay)
        torch._foreach_copy_(previous, gradients)
        for state in states:
            state["step"] = k


class EMA:
    """An exponential moving average of a model's weights; `model` is the averaged copy.

    The decay grows to its full value, min(decay, (1 + k) / (10 + k)) after k updates, so that a short run's
    average forgets its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model`, whose weights are those after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict of tensors, "INDEX.NAME", that safetensors can hold."""
    flat = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            flat[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return flat


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`, on an optimizer of the same parameters."""
    states: dict[int, dict] = {}
    for key, value in flat.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    whole = isinstance(optimizer, Adan)  # Adan counts its steps in a plain int, torch's own in a tensor
    for state in states.values():
        if whole:
            state["step"] = int(state["step"])
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
