"""Adan and AdamW with the gradient clipped inside, and the exponential moving average of weights.

Both optimizers take `max_grad_norm`. After `step()`, `grad_norm` is the gradients' global norm before clipping and
`taken` says whether it was finite: where it was not, nothing changed. Both are tensors on the parameters' device, and
no step waits for that device, but for AdamW on Apple's.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import cache

import adan_pytorch
import torch
from torch import Tensor, nn

from mdt_core.training.sharding import local_part

COMPILE_FROM = 2**20  # parameters: below, compiling costs more than it can save
TOLD_IN_KERNEL = ("cuda", "cpu")  # devices whose fused AdamW heeds `grad_scale` and `found_inf`


# --- gradients -----------------------------------------------------------------------------------------------


def clip_scale(gradients: Iterable[Tensor], max_norm: float) -> tuple[Tensor, Tensor]:
    """The global norm of `gradients`, and what to multiply them by so that it is at most `max_norm`.

    The factor is in (0, 1], and 0 or NaN where the norm is not finite.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return norm, (max_norm / (norm + 1e-6)).clamp(max=1)


class AdamW(torch.optim.AdamW):
    """torch's AdamW, fused, with clipping by global norm.

    The fused kernel divides the gradients by `grad_scale` and does nothing where `found_inf` is 1, two attributes
    made for mixed precision: clipping is such a scale. On MPS many a version of torch ignores them: there the gradients
    are scaled here, and the host waits to see whether there is to be a step.
    """

    def __init__(self, params, lr: float = 1e-3, *, max_grad_norm: float | None = None, **settings):
        super().__init__(params, lr, fused=True, **settings)
        self.max_grad_norm, self.grad_norm, self.taken = max_grad_norm, None, None

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        if self.max_grad_norm is not None:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            self.grad_norm, scale = clip_scale(gradients, self.max_grad_norm)
            self.taken = scale > 0
            if scale.device.type in TOLD_IN_KERNEL:
                self.grad_scale, self.found_inf = 1 / scale, 1 - self.taken.float()
            elif self.taken:
                torch._foreach_mul_(gradients, scale)
            else:
                return loss
        super().step()
        return loss


# --- Adan ----------------------------------------------------------------------------------------------------


class Adan(adan_pytorch.Adan):
    """Adan (arXiv 2208.06677, algorithm 1) on the class and state of `adan-pytorch`, with the step corrected.

    `adan-pytorch` leaves the moments at zero in the first step and divides by one sample's second moment in
    the second: an update of hundreds of learning rates. Here the first step counts, with no difference term,
    and all three moments are bias-corrected, as in the authors' code. `betas` are the paper's: the weight of
    the *new* gradient, so (0.02, 0.08, 0.01) is what other optimizers call (0.98, 0.92, 0.99).

    The step is bound by memory: it reads six numbers for each weight and writes five. So one compiled kernel passes
    over each weight once, over small parameters joined end to end.

    Args:
        max_grad_norm: clip gradients to this global norm. None: take them as they are, and measure nothing.
        compile: None compiles from `COMPILE_FROM` parameters on, where a compiler is found (some seconds, once).
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.02, 0.08, 0.01),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        max_grad_norm: float | None = None,
        compile: bool | None = None,
    ):
        if len(betas) != 3 or not all(0 < beta < 1 for beta in betas):
            raise ValueError(f"betas are three weights of the new gradient, between 0 and 1, not {betas}")
        super().__init__(params, lr, betas, eps, weight_decay)
        self.max_grad_norm, self.grad_norm, self.taken = max_grad_norm, None, None
        size = sum(p.numel() for group in self.param_groups for p in group["params"])
        self.compile = size >= COMPILE_FROM if compile is None else compile

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)  # of load_state_dict: parameters have new state, which is joined at the next step
        self._trained, self._cohorts = [], []

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        self._trained, self._cohorts = [], []

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if [id(p) for p in trained] != self._trained:
            self._trained, self._cohorts = [id(p) for p in trained], self._join()
        scale = torch.ones(())
        if self.max_grad_norm is not None:
            self.grad_norm, scale = clip_scale([p.grad for p in trained], self.max_grad_norm)
            self.taken = scale > 0
        for group, steps, buckets in self._cohorts:
            rates = adan_rates(group, steps, scale.to(steps))
            for bucket in buckets:
                bucket.step(rates, self.compile)
        return loss

    def _join(self) -> list[tuple[dict, Tensor, list["Bucket"]]]:
        """Sort parameters that have a gradient by group, kind and steps taken: (group, step counts, buckets)."""
        cohorts = []
        for group in self.param_groups:
            alike: dict[tuple, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.device, p.dtype, int(self.state[p].get("step", 0))), []).append(p)
            for (device, dtype, step), parameters in alike.items():
                dtype = torch.promote_types(dtype, torch.float32)
                steps = torch.full((len(parameters),), step, device=device, dtype=dtype)
                for p, count in zip(parameters, steps, strict=True):  # a view each: all count together
                    self.state[p]["step"] = count
                cohorts.append((group, steps, [Bucket(part, self.state) for part in in_buckets(parameters)]))
        return cohorts


def adan_rates(group: dict, steps: Tensor, scale: Tensor) -> Tensor:
    """The scalars of step k of a parameter group, as `adan_pass` unpacks them.

    Args:
        group: lr, betas, eps and weight_decay.
        steps: how many steps each parameter has taken, all the same number; counts this one.
        scale: of the gradients; 0 or NaN: the step is not taken, all rates are 0.
    """
    lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
    b1, b2, b3 = group["betas"]
    taken = (scale > 0).to(steps)
    steps += taken
    k = steps[0].clamp(min=1)
    second = (k > 1).to(k)  # the first gradient has none before it to differ from
    look = (1 - b2) * second
    c1, c2, c3 = (-torch.expm1(k * math.log1p(-beta)) for beta in (b1, b2, b3))  # bias corrections: 1 - (1 - beta)^k
    eta = lr * taken * c3.sqrt()  # with eps * c3.sqrt(): n need not be divided by c3
    values = (scale, b1 * taken, b2 * taken * second, b3 * taken, look, eta / c1, eta * look / c2)
    return torch.stack([*values, eps * c3.sqrt(), 1 + lr * decay * taken])


def adan_pass(p: Tensor, g: Tensor, previous: Tensor, m: Tensor, v: Tensor, n: Tensor, rates: Tensor) -> None:
    """Algorithm 1, lines 3 to 8, on tensors of one shape: weights, gradients now and before, moments; g alone stays."""
    scale, b1, b2, b3, look, eta_m, eta_v, eps, shrink = rates.unbind()
    g = torch.where(scale > 0, g * scale, previous)  # a gradient that is not finite must not reach the products below
    difference = g - previous
    m += b1 * (g - m)
    v += b2 * (difference - v)
    n += b3 * ((g + look * difference).square() - n)
    p -= (eta_m * m + eta_v * v) / (n.sqrt() + eps)
    p /= shrink
    previous.copy_(g)


def chunked_pass(*tensors: Tensor) -> None:
    """`adan_pass`, on a CPU in chunks whose two dozen operations find them in its cache: a third of the time."""
    *tensors, rates = tensors
    chunk = 2**15 if rates.device.type == "cpu" else tensors[0].numel()
    for parts in zip(*(tensor.split(chunk) for tensor in tensors), strict=True):
        adan_pass(*parts, rates)


@cache
def compiled_pass(device: torch.device) -> Callable[..., None]:
    """`adan_pass` compiled; `chunked_pass` where that fails, as without a C++ compiler or Triton."""
    compiled = torch.compile(adan_pass, dynamic=True, fullgraph=True)
    try:
        compiled(*(torch.zeros(4096, device=device) for _ in range(6)), torch.ones(9, device=device))
    except Exception as error:
        warnings.warn(f"Adan is not compiled, so it takes several times longer: {error}", stacklevel=2)
        return chunked_pass
    return compiled


def in_buckets(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Large parameters one by one, which copies nothing; small ones together, since a launch has its price."""
    large = 2**16 if parameters[0].device.type == "cpu" else 2**22
    waiting: list[nn.Parameter] = []
    for p in parameters:
        if p.numel() >= large and p.is_contiguous():
            yield [p]
            continue
        waiting.append(p)
        if sum(q.numel() for q in waiting) >= large:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class Bucket:
    """Parameters that are passed over together. `state` of each holds views of the bucket's flat tensors."""

    def __init__(self, parameters: list[nn.Parameter], state: dict[nn.Parameter, dict]):
        self.parameters = parameters
        weights = [local_part(p.detach()) for p in parameters]
        self.sizes = [w.numel() for w in weights]
        self.alone = len(parameters) == 1 and weights[0].is_contiguous()
        self.moments = []
        for name in ("prev_grad", "m", "v", "n"):
            flat = torch.cat(
                [
                    local_part(state[p][name]).reshape(-1) if name in state[p] else torch.zeros_like(w).reshape(-1)
                    for p, w in zip(parameters, weights, strict=True)
                ]
            )
            self.moments.append(flat)
            for p, w, part in zip(parameters, weights, flat.split(self.sizes), strict=True):
                state[p][name] = part.view(w.shape)

    def step(self, rates: Tensor, compiled: bool) -> None:
        weights = [local_part(p.detach()) for p in self.parameters]
        flat = self._flat(weights)
        run = compiled_pass(flat.device) if compiled else chunked_pass
        run(flat, self._flat([local_part(p.grad) for p in self.parameters]), *self.moments, rates)
        if not self.alone:
            parts = flat.split(self.sizes)
            torch._foreach_copy_(weights, [part.view(w.shape) for part, w in zip(parts, weights, strict=True)])

    def _flat(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].reshape(-1) if self.alone else torch.cat([t.reshape(-1) for t in tensors])


# --- the average ---------------------------------------------------------------------------------------------


# --- state as tensors ----------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict of tensors, "INDEX.NAME", that safetensors can hold."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`, on an optimizer of the same parameters."""
    states: dict[int, dict] = {}
    for key, value in flat.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
