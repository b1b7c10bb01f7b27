"""Masking is exact index work: what is taken comes back to its place, and hidden tokens stay unseen."""

import pytest
import torch

from mdt_core.masking import cells_to_tokens, draw_keep, gather, is_kept, pixel_mask_to_cells, restore


def test_kept_and_hidden_tokens_are_all_tokens():
    """Catches a token that is drawn twice or lost."""
    keep = draw_keep(torch.rand(5, 64), 40)
    assert all(len(set(row)) == 40 for row in keep.tolist())
    assert is_kept(keep, 64).sum(dim=1).tolist() == [40] * 5


def test_restore_undoes_gather():
    """Catches places that are permuted between the two, or filled where a kept token belongs."""
    tokens, keep = torch.randn(3, 16, 8), draw_keep(torch.rand(3, 16), 9)
    back = restore(gather(tokens, keep), keep, fill=torch.full((1, 16, 8), 7.0))
    kept = is_kept(keep, 16)
    assert torch.equal(back[kept], tokens[kept])
    assert (back[~kept] == 7.0).all()


@pytest.mark.parametrize("count", [0, 17])
def test_an_impossible_count_is_named(count):
    with pytest.raises(ValueError, match=r"1\.\.16"):
        draw_keep(torch.rand(2, 16), count)


def test_one_pixel_repaints_its_cell_and_its_token():
    """Catches rounding that loses a mask smaller than a cell, and swapped rows and columns."""
    mask = torch.zeros(64, 64)
    mask[5, 62] = 1
    cells = pixel_mask_to_cells(mask, (16, 16))
    assert cells.nonzero().tolist() == [[1, 15]]
    assert cells_to_tokens(cells, patch_size=4).nonzero().tolist() == [[3]]


def test_a_mask_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="60 x 64"):
        pixel_mask_to_cells(torch.zeros(60, 64), (16, 16))
