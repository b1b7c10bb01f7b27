"""Adan (arXiv 2208.06677) and AdamW, both with gradient clipping inside; their state as tensors for a file.

Both take `max_grad_norm`. After `step()`, `grad_norm` is the gradients' global norm before clipping, and `taken` says
whether it was finite; where it was not, the step was skipped: no weight, moment or count changed. Both are tensors on
the parameters' device, and no step makes the host wait for that device, except AdamW on Apple's.
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
CLIPS_IN_KERNEL = ("cuda", "cpu")  # devices whose fused AdamW reads `grad_scale` and `found_inf`


def clip_scale(gradients: Iterable[Tensor], max_norm: float) -> tuple[Tensor, Tensor]:
    """The global norm of `gradients`, and the factor that clips it to `max_norm`.

    The factor is in (0, 1]; 0 or NaN where the norm is not finite.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return norm, (max_norm / (norm + 1e-6)).clamp(max=1)


class AdamW(torch.optim.AdamW):
    """torch's AdamW, fused, with clipping by global norm.

    The fused kernel divides the gradients by the attribute `grad_scale` and skips the step where `found_inf` is 1. Both
    were made for mixed precision, and serve here to clip. Some versions of torch ignore them on MPS: there the
    gradients are scaled before the kernel, and the host waits to see whether to skip.
    """

    state_names = frozenset({"step", "exp_avg", "exp_avg_sq"})

    def __init__(self, params, lr: float = 1e-3, *, max_grad_norm: float | None = None, **settings):
        super().__init__(params, lr, fused=True, **settings)
        self.max_grad_norm, self.grad_norm, self.taken = max_grad_norm, None, None

    def step(self):
        """Clip and update; skip where the gradient is not finite."""
        if self.max_grad_norm is not None:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            self.grad_norm, scale = clip_scale(gradients, self.max_grad_norm)
            self.taken = scale > 0
            if scale.device.type in CLIPS_IN_KERNEL:
                self.grad_scale, self.found_inf = 1 / scale, 1 - self.taken.float()
            elif self.taken:
                torch._foreach_mul_(gradients, scale)
            else:
                return
        super().step()


# --- Adan ----------------------------------------------------------------------------------------------------


class Adan(adan_pytorch.Adan):
    """Adan (arXiv 2208.06677, algorithm 1) on the class and state of `adan-pytorch`, with the step corrected.

    `adan-pytorch` leaves the moments at zero in the first step and divides by one sample's second moment in
    the second: an update of hundreds of learning rates. Here the first step counts, with no difference term,
    and all three moments are bias-corrected, as in the authors' code. `betas` are the paper's: the weight of
    the *new* gradient, so (0.02, 0.08, 0.01) is what other optimizers call (0.98, 0.92, 0.99).

    The step is bound by memory: it reads six numbers per weight and writes five. So one compiled kernel passes over
    each weight once, and small parameters are joined into buckets.

    Args:
        max_grad_norm: clip gradients to this global norm. None: do not clip, and measure no norm.
        compile: None compiles from `COMPILE_FROM` parameters on, where there is a compiler (some seconds, once).
    """

    state_names = frozenset({"step", "prev_grad", "m", "v", "n"})

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
        super().__setstate__(state)  # called by load_state_dict: the new state is put into buckets at the next step
        self._bucketed, self._cohorts = [], []

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; buckets are made anew at the next step."""
        super().add_param_group(param_group)
        self._bucketed, self._cohorts = [], []

    @torch.no_grad()
    def step(self):
        """Clip and update; skip where the gradient is not finite."""
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if [id(p) for p in trained] != self._bucketed:
            self._bucketed, self._cohorts = [id(p) for p in trained], self._make_cohorts()
        scale = torch.ones(())
        if self.max_grad_norm is not None:
            self.grad_norm, scale = clip_scale([p.grad for p in trained], self.max_grad_norm)
            self.taken = scale > 0
        for group, steps, buckets in self._cohorts:
            rates = adan_rates(group, steps, scale.to(steps))
            for bucket in buckets:
                bucket.step(rates, self.compile)

    def _make_cohorts(self) -> list[tuple[dict, Tensor, list["Bucket"]]]:
        """Parameters with a gradient, by what their rates depend on: (group, step counts, buckets).

        A cohort's parameters share a parameter group, a device, a dtype and the number of steps taken.
        """
        cohorts = []
        for group in self.param_groups:
            members: dict[tuple, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    members.setdefault((p.device, p.dtype, int(self.state[p].get("step", 0))), []).append(p)
            for (device, dtype, step), parameters in members.items():
                dtype = torch.promote_types(dtype, torch.float32)
                steps = torch.full((len(parameters),), step, device=device, dtype=dtype)
                for p, count in zip(parameters, steps, strict=True):  # views of one tensor: one addition counts for all
                    self.state[p]["step"] = count
                cohorts.append((group, steps, [Bucket(part, self.state) for part in in_buckets(parameters)]))
        return cohorts


def adan_rates(group: dict, steps: Tensor, scale: Tensor) -> Tensor:
    """The scalars of step k of a parameter group, as `adan_pass` unpacks them.

    Args:
        group: lr, betas, eps and weight_decay.
        steps: how many steps each parameter has taken, all the same number; this one is added.
        scale: of the gradients; 0 or NaN: the step is skipped, all rates are 0.
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
    """Algorithm 1, lines 3 to 8, in place on all but g: weights, gradient, the one before, moments; of one shape."""
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
    """`adan_pass`, uncompiled: on a CPU in chunks that stay in its cache for two dozen operations, 3 times as fast."""
    *states, rates = tensors
    chunk = 2**15 if rates.device.type == "cpu" else states[0].numel()
    for parts in zip(*(state.split(chunk) for state in states), strict=True):
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
    """Large parameters alone, which saves a copy; small ones together, which saves launches."""
    large = 2**16 if parameters[0].device.type == "cpu" else 2**22
    small: list[nn.Parameter] = []
    for p in parameters:
        if p.numel() >= large and p.is_contiguous():
            yield [p]
            continue
        small.append(p)
        if sum(q.numel() for q in small) >= large:
            yield small
            small = []
    if small:
        yield small


class Bucket:
    """Parameters updated together. The `state` of each holds views of the bucket's flat tensors."""

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
        """Update weights and state with the rates of `adan_rates`."""
        weights = [local_part(p.detach()) for p in self.parameters]
        flat = self._flat(weights)
        update = compiled_pass(flat.device) if compiled else chunked_pass
        update(flat, self._flat([local_part(p.grad) for p in self.parameters]), *self.moments, rates)
        if not self.alone:
            parts = flat.split(self.sizes)
            torch._foreach_copy_(weights, [part.view(w.shape) for part, w in zip(parts, weights, strict=True)])

    def _flat(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].reshape(-1) if self.alone else torch.cat([t.reshape(-1) for t in tensors])


# --- state as tensors ----------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict of tensors, "INDEX.NAME", that safetensors can hold."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: AdamW | Adan, flat: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, on an optimizer of the same parameters. ValueError where it is of another."""
    states: dict[int, dict] = {}
    for key, value in flat.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    if any(set(state) != optimizer.state_names for state in states.values()):
        raise ValueError(f"optimizer.safetensors is of another optimizer than {type(optimizer).__name__}")
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
