"""Attention, norms and linear maps: the same numbers by whichever way is fastest where they run.

Letters: N batch, T tokens, A heads, Q queries, d width of a head, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.weak import WeakIdKeyDictionary


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (N, A, Q, d). k, v: (N, A, T, d).
        bias: (N or 1, A, Q, T), or None.

    Returns:
        (N, A, Q, d).
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    bias = bias.to(q.dtype)
    if not (torch.is_grad_enabled() and bias.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if q.device.type == "cpu" and q.dtype == torch.float32:
        return BiasedAttention.apply(q, k, v, bias)
    # cuDNN's kernel has given NaN gradients for some lengths of a masked pass; this one takes a bias that learns.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class BiasedAttention(torch.autograd.Function):
    """On a CPU, a bias that learns keeps torch from its fused kernel; this takes fewer passes over the logits."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        q, k, v = q.contiguous() * q.shape[-1] ** -0.5, k.contiguous(), v.contiguous()  # once, not in every product
        weights = torch.matmul(q, k.transpose(-2, -1)).add_(bias)  # (N, A, Q, T)
        torch.softmax(weights, dim=-1, out=weights)
        ctx.save_for_backward(q, k, v, weights)
        ctx.bias_is_shared = len(bias) < len(q)
        return weights @ v

    # With P the weights and S the logits, dS = P (dP - sum(dP P)), which is the bias's gradient too
    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_v = weights.transpose(-2, -1) @ d_out
        d_weights = d_out @ v.transpose(-2, -1)
        d_logits = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype, grad_input=d_weights)
        d_bias = d_logits.sum(0, keepdim=True) if ctx.bias_is_shared else d_logits
        d_q = (d_logits @ k).mul_(q.shape[-1] ** -0.5)
        return d_q, d_logits.transpose(-2, -1) @ q, d_v, d_bias


def adaptive_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: layer_norm(x) (1 + scale) + shift, of x (N, T, D) with the condition's shift and scale (N, 1, D)."""
    width = x.shape[-1:]
    if len(x) == 1 and x.dtype == shift.dtype:
        return F.layer_norm(x, width, 1 + scale.flatten(), shift.flatten(), eps=1e-6)
    # On a CPU torch's kernel takes three times as long without weights as with them.
    neutral = (x.new_ones(width), x.new_zeros(width)) if x.device.type == "cpu" else ()
    return torch.addcmul(shift, F.layer_norm(x, width, *neutral, eps=1e-6), 1 + scale)


def linear(x: Tensor, layer: nn.Linear, gelu: bool = False) -> Tensor:
    """layer(x), or gelu(layer(x)) by the tanh approximation: (..., D) -> (..., D_out).

    Without gradients a CPU lays its weight out once for many products, which saves each a seventh of its time; and
    where torch's own gelu takes a third as long as the product before it, oneDNN's comes with the product.
    """
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if plain and x.device.type == "cpu" and x.dtype == torch.float32:
        # torch.compile cannot look into the memory of layouts: it gets an operator.
        product = torch.ops.mdt_core.linear if torch.compiler.is_compiling() else cpu_linear
        return product(x, layer.weight, layer.bias, gelu)
    return F.gelu(layer(x), approximate="tanh") if gelu else layer(x)


MOST_PACKED = 3_000_000  # numbers of a weight, S and B: a second copy of XL/2 would take 2 GiB
_layouts = WeakIdKeyDictionary()  # weight -> (its values, their version, rows, layout or None)


def packed(weight: Tensor, rows: int, pack: Callable[[Tensor, int], Tensor]) -> Tensor | None:
    """The weight as a product of so many rows reads it; None until it is used so for a second time, unchanged."""
    values, version, known_rows, layout = _layouts.get(weight, (None, None, None, None))
    same = values is not None and (version, known_rows) == (weight._version, rows)
    if not same or values.data_ptr() != weight.data_ptr():
        _layouts[weight] = weight.detach(), weight._version, rows, None  # holds the memory: its address stays its own
        return None
    if layout is None and weight.numel() <= MOST_PACKED:
        layout = pack(values, rows)
        _layouts[weight] = values, version, rows, layout
    return layout


def cpu_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """`linear` by MKL, with `gelu` by oneDNN: (..., D) -> (..., D_out), float32, without gradients."""
    rows = x.numel() // x.shape[-1]
    if gelu and torch.backends.mkldnn.is_available():
        layout = packed(weight, rows, torch.ops.mkldnn._reorder_linear_weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight if layout is None else layout, bias, "gelu", [], "tanh")
    mkl = torch.backends.mkl.is_available()
    layout = packed(weight, rows, torch.ops.mkl._mkl_reorder_linear_weight) if mkl else None
    y = F.linear(x, weight, bias) if layout is None else torch.ops.mkl._mkl_linear(x, layout, weight, bias, rows)
    return F.gelu(y, approximate="tanh") if gelu else y


torch.library.define("mdt_core::linear", "(Tensor x, Tensor weight, Tensor bias, bool gelu) -> Tensor")
torch.library.impl("mdt_core::linear", "CPU", cpu_linear)
torch.library.register_fake("mdt_core::linear", lambda x, weight, bias, gelu: x.new_empty(*x.shape[:-1], len(weight)))
