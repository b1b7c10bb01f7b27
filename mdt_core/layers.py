"""The parts of a diffusion transformer: embedders, attention with relative position bias, block, final layer.

Follows DiT (arXiv 2212.09748, section 3) and MDT (arXiv 2303.14389, section 3.2). Attribute names are those
that published checkpoints carry as keys.

Letters: N batch, T tokens (T = G^2 for a grid of side G), Q queries among them, D width, A attention heads, R rank of
all low-rank additions together, C latent channels, p patch size, (h, w) latent cells.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mdt_core.kernels import attention, linear_gelu
from mdt_core.masking import gather


class PatchEmbed(nn.Module):
    """Latents (N, C, h, w) -> tokens (N, T, D): one linear map of each p x p patch."""

    def __init__(self, patch_size: int, in_channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Patches in rows, from the top left; in each, channel before row before column."""
        p = self.proj.kernel_size[0]
        patches = rearrange(x, "n c (h p) (w q) -> n (h w) (c p q)", p=p, q=p)
        # The convolution as a product: its output is contiguous, token after token. The convolution's own would be
        # contiguous channel after channel, and copied by every block.
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class TimestepEmbedder(nn.Module):
    """Timesteps (N,) in 0..999 -> (N, D): sines and cosines of 128 frequencies, then an MLP."""

    NUM_FREQUENCIES = 128

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """Cosines first, from frequency 1 down to nearly 1 / 10,000."""
        k = torch.arange(self.NUM_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
        angles = timesteps.float()[:, None] * torch.exp(-math.log(10_000) * k / self.NUM_FREQUENCIES)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Class labels -> (N, D). They are (N,) in 0..num_classes, the null class; or (N, num_classes + 1) weights."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, class_labels: Tensor) -> Tensor:
        """A row of the table for each label; for a mix the mean of the rows, each as heavy as its weight."""
        if class_labels.ndim == 1:
            return self.embedding_table(class_labels)
        table = self.embedding_table.weight
        with torch.autocast(table.device.type, enabled=False):  # as exact as a row: autocast leaves those alone
            return class_labels.to(table.dtype) @ table


class AdapterShares(nn.Module):
    """Class labels, as above -> how much an image has of each low-rank addition: (N, 1, R)."""

    def __init__(self, num_classes: int, adapters: Sequence[Sequence[int]], rank: int):
        super().__init__()
        shares = torch.zeros(len(adapters), num_classes + 1)
        for row, classes in zip(shares, adapters, strict=True):
            row[list(classes)] = 1
        self.register_buffer("table", shares.T.repeat_interleave(rank, dim=1), persistent=False)  # (num_classes + 1, R)

    def forward(self, class_labels: Tensor) -> Tensor:
        """All of those of its class, nothing of others; of a mix as much as the classes weigh."""
        if class_labels.ndim == 1:
            return self.table[class_labels][:, None]
        return (class_labels.to(self.table) @ self.table)[:, None]


class RelativePositionBias(nn.Module):
    """A learnt number per head and per offset between two tokens of the grid, added to the attention logits.

    The published table has three rows more than there are offsets (BEiT's, for a class token); no token uses
    them, they are kept so that checkpoints fit.
    """

    def __init__(self, grid_size: int, num_heads: int):
        super().__init__()
        num_offsets = (2 * grid_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets + 3, num_heads))
        self.register_buffer("relative_position_index", self.offset_index(grid_size))

    @staticmethod
    def offset_index(grid_size: int) -> Tensor:
        """(T, T) int64: which row of the table belongs to a pair of tokens."""
        side = torch.arange(grid_size)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
        offset = lambda axis: axis[:, None] - axis[None, :] + grid_size - 1  # noqa: E731
        return offset(rows) * (2 * grid_size - 1) + offset(columns)

    def forward(self, pairs: Tensor | None = None) -> Tensor:
        """(1, A, T, T), or for the token pairs of `token_pairs` (N, Q, K) alone: (N, A, Q, K)."""
        index = self.relative_position_index[None] if pairs is None else pairs
        # index_select and not an embedding: its backward adds up, where that of an embedding sorts or searches.
        bias = self.relative_position_bias_table.t().contiguous().index_select(1, index.flatten())  # (A, N Q K)
        return bias.unflatten(1, index.shape).transpose(0, 1)


def token_pairs(queries: Tensor, keys: Tensor, grid_size: int) -> Tensor:
    """Which row of a bias table belongs to each pair of tokens: indices (N, Q), (N, K) -> (N, Q, K)."""
    side = 2 * grid_size - 1
    place = lambda tokens: tokens // grid_size * side + tokens % grid_size  # noqa: E731
    centre = (grid_size - 1) * (side + 1)  # the row of a token's pair with itself
    return place(queries)[:, :, None] - place(keys)[:, None, :] + centre


class Linear(nn.Linear):
    """A linear map, W x + b, to which an image may add low-rank ones, B A x (LoRA, Hu et al. 2021, arXiv:2106.09685).

    Which ones, and how much of each, `shares` say: they weigh the columns of B, R in all. At first there are none.
    """

    def __init__(self, in_features: int, out_features: int, lora_width: int = 0):
        super().__init__(in_features, out_features)
        self.lora_A = self.lora_B = None
        if lora_width:
            self.lora_A = nn.Parameter(torch.empty(lora_width, in_features))
            self.lora_B = nn.Parameter(torch.zeros(out_features, lora_width))
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor, shares: Tensor | None = None) -> Tensor:
        """x (N, T, D_in), shares (N, 1, R) or None -> (N, T, D_out)."""
        y = super().forward(x)
        return y if shares is None else y + F.linear(F.linear(x, self.lora_A) * shares, self.lora_B)


class Attention(nn.Module):
    """Multi-head self-attention, with a relative position bias if `grid_size` is given."""

    def __init__(self, width: int, num_heads: int, grid_size: int | None, lora_width: int = 0):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width, lora_width)
        self.proj = Linear(width, width, lora_width)
        self.rel_pos_bias = RelativePositionBias(grid_size, num_heads) if grid_size else None

    def forward(
        self, x: Tensor, bias: Tensor | None, queries: Tensor | None = None, shares: Tensor | None = None
    ) -> Tensor:
        """x (N, T, D), bias (N or 1, A, Q, T) -> (N, Q, D): every token's answer, or only that of `queries` (N, Q)."""
        q, k, v = self.qkv(x, shares).chunk(3, dim=-1)
        q = q if queries is None else gather(q, queries)
        q, k, v = (rearrange(part, "n t (a d) -> n a t d", a=self.num_heads) for part in (q, k, v))
        return self.proj(rearrange(attention(q, k, v, bias), "n a q d -> n q (a d)"), shares)


class Mlp(nn.Module):
    """Two linear maps with a tanh-approximated GELU between."""

    def __init__(self, width: int, hidden: int, lora_width: int = 0):
        super().__init__()
        self.fc1 = Linear(width, hidden, lora_width)
        self.fc2 = Linear(hidden, width, lora_width)

    def forward(self, x: Tensor, shares: Tensor | None = None) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        if shares is None:
            return self.fc2(linear_gelu(x, self.fc1))
        return self.fc2(F.gelu(self.fc1(x, shares), approximate="tanh"), shares)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (N, T, D) with the condition's shift and scale (N, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)


def adaln(width: int, parts: int) -> nn.Sequential:
    """Condition (N, D) -> `parts` modulation vectors in one (N, parts D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class Condition(NamedTuple):
    """What one block is conditioned on."""

    modulation: Tensor  # (N, 6 D), shift, scale and gate of attention and of the MLP
    bias: Tensor | None = None  # (N or 1, A, Q, T), of the attention's positions
    shares: Tensor | None = None  # (N, 1, R), of the low-rank additions


class Block(nn.Module):
    """A transformer block with adaLN-Zero; with `shortcut`, it first merges a second input into its own."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: float,
        grid_size: int | None,
        shortcut: bool = False,
        lora_width: int = 0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads, grid_size, lora_width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), lora_width)
        self.adaLN_modulation = adaln(width, 6)
        self.skip_linear = Linear(2 * width, width, lora_width) if shortcut else None

    def forward(
        self,
        x: Tensor,
        condition: Condition,
        skip: Tensor | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """One block, for all tokens or only for those asked for.

        Args:
            x: (N, T, D).
            condition: of this block, for Q queries and T tokens.
            skip: (N, T, D), of a block with a shortcut.
            queries: (N, Q), the tokens that are asked for; None for all, Q = T.

        Returns:
            (N, Q, D).
        """
        shares = condition.shares
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1), shares).to(x.dtype)  # autocast: the stream stays float32
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = condition.modulation.unsqueeze(1).chunk(6, dim=-1)
        attended = self.attn(modulate(self.norm1(x), shift_a, scale_a), condition.bias, queries, shares)
        x = x if queries is None else gather(x, queries)
        x = torch.addcmul(x, gate_a, attended)
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.norm2(x), shift_m, scale_m), shares))


class FinalLayer(nn.Module):
    """Tokens (N, T, D) -> patches (N, T, p p C_out)."""

    def __init__(self, width: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch_size**2 * out_channels)
        self.adaLN_modulation = adaln(width, 2)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens and their modulation (N, 2 D), shift and scale."""
        shift, scale = modulation.unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class Conditioning:
    """The conditioning c of one forward pass: `c(block)` is what a block is given of it.

    `mdt_core.acceleration.cached_conditioning` has one that looks up what it computed before.
    """

    def __init__(self, c: Tensor, shares: Tensor | None = None):
        self.c = c  # (N, D)
        self.shares = shares  # (N, 1, R)

    def __call__(self, block: Block, pairs: Tensor | None = None) -> Condition:
        """What the block is conditioned on, its bias for all tokens or for the `token_pairs` (N, Q, K) given."""
        table = block.attn.rel_pos_bias
        return Condition(self.modulation(block), None if table is None else self.bias(table, pairs), self.shares)

    def modulation(self, layer: Block | FinalLayer) -> Tensor:
        """(N, 6 D) of a block, (N, 2 D) of the final layer."""
        return layer.adaLN_modulation(self.c)

    def bias(self, table: RelativePositionBias, pairs: Tensor | None) -> Tensor:
        """(1, A, T, T), or for the pairs (N, A, Q, K)."""
        return table(pairs)


def sincos_positions(width: int, grid_size: int) -> Tensor:
    """(1, T, D): sines and cosines of the column in the first half of the width, of the row in the second."""
    frequencies = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    side = torch.arange(grid_size, dtype=torch.float64)
    angles = torch.outer(side, frequencies)  # (G, D/4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (G, D/2)
    columns = waves.repeat(grid_size, 1)  # (T, D/2): token r G + c has column c
    rows = waves.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=1).float()[None]
