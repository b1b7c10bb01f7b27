"""Masking: index operations on tokens and nothing else (arXiv 2303.14389, section 3.2).

A token is *kept* (the encoder sees it) or *hidden* (the side-interpolator predicts it). A set of kept tokens
is written as their indices, `keep` (N, K) int64, in any order; every image keeps the same number of tokens.

Letters: N batch, T tokens of an image (row by row), K kept tokens, D width, p patch size.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_keep(noise: Tensor, num_keep: int) -> Tensor:
    """Choose the tokens to keep: the `num_keep` with the smallest noise.

    Args:
        noise: (N, T), uniform draws.
        num_keep: K, in 1..T.

    Returns:
        (N, K) int64, in the order of argsort.
    """
    if not 1 <= num_keep <= noise.shape[1]:
        raise ValueError(f"num_keep must be in 1..{noise.shape[1]}, got {num_keep}")
    return noise.argsort(dim=1)[:, :num_keep]


def mask_noise(seeds: Sequence[int], num_tokens: int) -> Callable[[], Tensor]:
    """Uniform draws (N, T) for the masks of one picture per seed, others at each call.

    Those of a picture depend on its own seed and on the number of calls before, and not on its neighbours.
    """
    rngs = [torch.Generator().manual_seed(~seed) for seed in seeds]  # ~: the seed itself begins the picture's noise
    return lambda: torch.stack([torch.rand(num_tokens, generator=rng) for rng in rngs])


def gather(tokens: Tensor, keep: Tensor) -> Tensor:
    """All tokens (N, T, D) -> the kept ones (N, K, D)."""
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def scatter(tokens: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """All tokens (N, T, D) with `values` (N, K, D) in the given places (N, K)."""
    return tokens.scatter(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]), values.to(tokens.dtype))


def restore(tokens: Tensor, keep: Tensor, fill: Tensor) -> Tensor:
    """Undo `gather`: kept tokens (N, K, D) back in their places, `fill` elsewhere.

    Args:
        tokens: (N, K, D).
        keep: (N, K), as given to `gather`.
        fill: (1, T, D), what stands at the hidden places.
    """
    return scatter(fill.expand(len(tokens), -1, -1).to(tokens.dtype), keep, tokens)


def is_kept(keep: Tensor, num_tokens: int) -> Tensor:
    """Indices (N, K) -> (N, T) bool, true where the token is kept."""
    kept = torch.zeros(keep.shape[0], num_tokens, dtype=torch.bool, device=keep.device)
    return kept.scatter(1, keep, True)


def hidden_tokens(keep: Tensor, num_tokens: int) -> Tensor:
    """Indices of the kept tokens (N, K) -> of the others (N, T - K), ascending."""
    order = is_kept(keep, num_tokens).int().argsort(dim=1, stable=True)  # the hidden ones first
    return order[:, : num_tokens - keep.shape[1]]


# --- a painted mask: pixels -> latent cells -> tokens --------------------------------------------------------


def pixel_mask_to_cells(mask: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Pixels to repaint (..., H, W) -> latent cells to repaint (..., h, w) bool: every cell that one touches."""
    *batch, height, width = mask.shape
    h, w = latent_size
    if height % h or width % w:
        raise ValueError(f"a mask of {height} x {width} pixels does not divide into {h} x {w} latent cells")
    cells = F.max_pool2d(mask.reshape(-1, 1, height, width).float(), (height // h, width // w))
    return (cells > 0).reshape(*batch, h, w)


def cells_to_tokens(cells: Tensor, patch_size: int) -> Tensor:
    """Latent cells to repaint (..., h, w) -> tokens to repaint (..., T) bool, row by row."""
    h, w = cells.shape[-2:]
    return pixel_mask_to_cells(cells, (h // patch_size, w // patch_size)).flatten(-2)
