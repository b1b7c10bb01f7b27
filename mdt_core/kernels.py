"""Attention and the MLP's first half: the same numbers by whichever way is fastest where they run.

Letters: N batch, T tokens, A heads, Q queries, d width of a head, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (N, A, Q, d). k, v: (N, A, T, d).
        bias: (N or 1, A, Q, T), or None.

    Returns:
        (N, A, Q, d).
    """
    bias = None if bias is None else bias.to(q.dtype)
    learns = torch.is_grad_enabled() and bias is not None and bias.requires_grad
    # torch's backward in 16 bits takes ten times as long on a CPU, with a bias or without.
    slow = torch.is_grad_enabled() and q.requires_grad and q.dtype != torch.float32
    if q.device.type == "cpu" and (learns or slow):
        return PlainAttention.apply(q, k, v, bias)
    if not learns:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # cuDNN's kernel has given NaN gradients for some lengths of a masked pass; this one takes a bias that learns.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class PlainAttention(torch.autograd.Function):
    """For a CPU, where a bias that learns keeps torch from its fused kernel: fewer passes over the logits."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """As `attention`, with the weights kept for the way back."""
        q, k, v = q.contiguous() * q.shape[-1] ** -0.5, k.contiguous(), v.contiguous()  # once, not in every product
        weights = torch.matmul(q, k.transpose(-2, -1))  # (N, A, Q, T)
        if bias is not None:
            weights.add_(bias)
        torch.softmax(weights, dim=-1, out=weights)
        ctx.save_for_backward(q, k, v, weights)
        ctx.bias_is_shared = bias is not None and len(bias) < len(q)
        return weights @ v

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """With P the weights and S the logits, dS = P (dP - sum(dP P)), which is the bias's gradient too."""
        q, k, v, weights = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_v = weights.transpose(-2, -1) @ d_out
        d_weights = d_out @ v.transpose(-2, -1)
        d_logits = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype, grad_input=d_weights)
        d_bias = d_logits.sum(0, keepdim=True) if ctx.bias_is_shared else d_logits
        d_bias = d_bias if ctx.needs_input_grad[3] else None
        d_q = (d_logits @ k).mul_(q.shape[-1] ** -0.5)
        return d_q, d_logits.transpose(-2, -1) @ q, d_v, d_bias


def linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """gelu(linear(x)), the tanh approximation: (..., D) -> (..., D_out).

    On a CPU torch's own takes a third as long as the product before it; oneDNN's comes with the product.
    """
    if x.device.type == "cpu" and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            return onednn_linear_gelu(*(tensor.to(dtype) for tensor in (x, linear.weight, linear.bias)))
    return F.gelu(linear(x), approximate="tanh")


# An operator of its own, because torch.compile takes oneDNN's only with weights that are constants.
@torch.library.custom_op("mdt_core::linear_gelu", mutates_args=())
def onednn_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x weight^T + bias), the tanh approximation, in one call of oneDNN's."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")


@onednn_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))
