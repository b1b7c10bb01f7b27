"""Linear maps on a CPU: whatever layout a weight was given, the product is that of its numbers now."""

import pytest
import torch
from torch import nn

from mdt_core.kernels import adaptive_norm, linear

GELU = nn.GELU(approximate="tanh")


@torch.no_grad()
@pytest.mark.parametrize("gelu", [False, True])
def test_products_of_changing_rows_and_weights(gelu):
    """Catches a layout that outlives its weight's numbers, or that is read by a product of other rows."""
    layer = nn.Linear(32, 48)
    expected = nn.Sequential(layer, GELU) if gelu else layer
    for rows in (16, 16, 16, 5, 16):
        x = torch.randn(2, rows, 32)
        torch.testing.assert_close(linear(x, layer, gelu), expected(x))
    layer.weight.mul_(2)
    torch.testing.assert_close(linear(x, layer, gelu), expected(x))
    for _ in range(3):
        layer.weight.data = torch.randn(48, 32)
        torch.testing.assert_close(linear(x, layer, gelu), expected(x))
        torch.testing.assert_close(linear(x, layer, gelu), expected(x))


@pytest.mark.parametrize("gelu", [False, True])
def test_the_operator_says_its_shape_to_a_compiler(gelu):
    """Catches compiled code that allots other memory than the operator fills."""
    arguments = torch.randn(2, 5, 32), torch.randn(48, 32), torch.randn(48), gelu
    torch.library.opcheck(torch.ops.mdt_core.linear.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("images", [1, 3])
def test_one_image_is_normed_like_many(images):
    """Catches a scale without its 1, and a gradient that gets lost in the kernel for one image."""
    x, shift, scale = (torch.randn(images, n, 32, requires_grad=True) for n in (7, 1, 1))
    plain = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt() * (
        1 + scale
    ) + shift
    ours = adaptive_norm(x, shift, scale)
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), (x, shift, scale)) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
