"""The parts of a diffusion transformer: embedders, attention with relative position bias, block, final layer.

Follows DiT (arXiv 2212.09748, section 3) and MDT (arXiv 2303.14389, section 3.2). Attribute names are those
that published checkpoints carry as keys.

Letters: N batch, T tokens (T = G^2 for a grid of side G), D width, A attention heads, C latent channels,
p patch size, (h, w) latent cells.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Latents (N, C, h, w) -> tokens (N, T, D): one linear map of each p x p patch."""

    def __init__(self, patch_size: int, in_channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "n d h w -> n (h w) d")


class TimestepEmbedder(nn.Module):
    """Timesteps (N,) in 0..999 -> (N, D): sines and cosines of 128 frequencies, then an MLP."""

    NUM_FREQUENCIES = 128

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        k = torch.arange(self.NUM_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
        angles = timesteps.float()[:, None] * torch.exp(-math.log(10_000) * k / self.NUM_FREQUENCIES)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Class labels (N,) in 0..num_classes -> (N, D); num_classes itself is the null class."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, class_labels: Tensor) -> Tensor:
        return self.embedding_table(class_labels)


class RelativePositionBias(nn.Module):
    """A learnt number per head and per offset between two tokens of the grid, added to the attention logits.

    The published table has three rows more than there are offsets (BEiT's, for a class token); no token uses
    them, they are kept so that checkpoints fit.
    """

    def __init__(self, grid_size: int, num_heads: int):
        super().__init__()
        num_offsets = (2 * grid_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets + 3, num_heads))
        self.register_buffer("relative_position_index", self._offset_index(grid_size))

    @staticmethod
    def _offset_index(grid_size: int) -> Tensor:
        """(T, T) int64: which row of the table belongs to a pair of tokens."""
        side = torch.arange(grid_size)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
        offset = lambda axis: axis[:, None] - axis[None, :] + grid_size - 1  # noqa: E731
        return offset(rows) * (2 * grid_size - 1) + offset(columns)

    def forward(self, keep: Tensor | None = None) -> Tensor:
        """(1, A, T, T), or with `keep` (N, K) the pairs of kept tokens alone: (N, A, K, K)."""
        index = self.relative_position_index
        index = index[None] if keep is None else index[keep[:, :, None], keep[:, None, :]]
        return rearrange(F.embedding(index, self.relative_position_bias_table), "n q k a -> n a q k")


class Attention(nn.Module):
    """Multi-head self-attention, with a relative position bias if `grid_size` is given."""

    def __init__(self, width: int, num_heads: int, grid_size: int | None):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_bias = RelativePositionBias(grid_size, num_heads) if grid_size else None

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "n t (three a d) -> three n a t d", three=3, a=self.num_heads).unbind(0)
        bias = self.rel_pos_bias(keep).to(q.dtype) if self.rel_pos_bias is not None else None
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(x, "n a t d -> n t (a d)"))


class Mlp(nn.Module):
    """Two linear maps with a tanh-approximated GELU between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (N, T, D) with the condition's shift and scale (N, 1, D)."""
    return x * (1 + scale) + shift


def adaln(width: int, parts: int) -> nn.Sequential:
    """Condition (N, D) -> `parts` modulation vectors in one (N, parts D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class Block(nn.Module):
    """A transformer block with adaLN-Zero; with `shortcut`, it first merges a second input into its own."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, grid_size: int | None, shortcut: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads, grid_size)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.adaLN_modulation = adaln(width, 6)
        self.skip_linear = nn.Linear(2 * width, width) if shortcut else None

    def forward(self, x: Tensor, c: Tensor, skip: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x, skip (N, T, D), condition c (N, D), keep (N, T) when x holds the kept tokens alone -> (N, T, D)."""
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self.attn(modulate(self.norm1(x), shift_a, scale_a), keep)
        x = x + gate_m * self.mlp(modulate(self.norm2(x), shift_m, scale_m))
        return x


class FinalLayer(nn.Module):
    """Tokens (N, T, D) -> patches (N, T, p p C_out)."""

    def __init__(self, width: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch_size**2 * out_channels)
        self.adaLN_modulation = adaln(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def sincos_positions(width: int, grid_size: int) -> Tensor:
    """(1, T, D): sines and cosines of the column in the first half of the width, of the row in the second."""
    frequencies = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    side = torch.arange(grid_size, dtype=torch.float64)
    angles = torch.outer(side, frequencies)  # (G, D/4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (G, D/2)
    columns = waves.repeat(grid_size, 1)  # (T, D/2): token r G + c has column c
    rows = waves.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=1).float()[None]
