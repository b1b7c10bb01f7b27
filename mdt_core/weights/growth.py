"""Begin a larger model as the function that a smaller, trained one computes: wider, deeper, or both.

Deeper: a new block is a copy of its neighbour with its gates shut (adaLN-Zero: DiT, arXiv 2212.09748, section 3.2), so
it begins as the identity. Wider: the stream of tokens gets channels that hold zero at first. A layer norm then sees a
smaller variance, for which its adaLN makes up; exact where a token's channels have mean zero, and nearly so elsewhere.
What is new writes nothing into what was there, but listens to it through fresh weights: it learns from the first step.
"""

import math
import re

import torch
from torch import Tensor

from mdt_core.transformer import MDTTransformer

# How many parts of a width the rows, or the columns, of a weight consist of; of the others it is one.
ROW_PARTS = {"attn.qkv": 3, "adaLN_modulation.1": 6, "final_layer.adaLN_modulation.1": 2}
COLUMN_PARTS = {"skip_linear": 2}
# These write into the stream without a gate: what is new of them is zero.
UNGATED = ("x_embedder.proj", "pos_embed", "decoder_pos_embed", "mask_token")
# What these read is not zero where it is new: their old rows must not hear it.
DEAF = ("t_embedder.mlp.2", "attn.proj", "mlp.fc2")


@torch.no_grad()
def grow(small: MDTTransformer, large: MDTTransformer) -> None:
    """Fill the freshly initialised `large`, in place, so that it predicts what `small` does.

    Args:
        small: trained, DiT, MDT or MDTv2.
        large: of the same class, latents, patch size, classes and parts, its heads as wide; nowhere smaller.

    Raises:
        ValueError: `large` is not such a model; what differs is named.
    """
    check_fits(small, large)
    theirs, origin = small.state_dict(), origins(small, large)
    shrink = math.sqrt(small.config.hidden_size / large.config.hidden_size)
    for key, new in large.state_dict().items():
        source, is_new, name = key, False, key
        if block := re.fullmatch(r"(\w*blocks)\.(\d+)\.(.+)", key):
            stack, number, name = block.groups()
            index, is_new = origin[stack][int(number)]
            source = f"{stack}.{index}.{name}"
        layer = name.removesuffix(".weight").removesuffix(".bias")
        if layer.endswith("relative_position_index") or (is_new and layer == "skip_linear"):
            continue  # a fresh shortcut is the identity on the stream
        old = theirs[source].to(new)
        if layer.endswith("adaLN_modulation.1"):
            old = modulation(old, ROW_PARTS[layer], shrink, is_bias=key.endswith("bias"), shut=is_new)
        if layer in UNGATED:
            new.zero_()
        if layer in DEAF:
            new[: len(old)] = 0
        place(old, new, ROW_PARTS.get(layer, 1), COLUMN_PARTS.get(layer, 1))


def check_fits(small: MDTTransformer, large: MDTTransformer) -> None:
    """Raise ValueError where `large` is not a larger model of the same kind."""
    ours, theirs = ({"class": type(model).__name__, **model.config} for model in (large, small))
    for each in (ours, theirs):
        each["width of a head"] = each["hidden_size"] // each["num_heads"]
        each["encoder blocks"] = each["depth"] - each["decoder_layers"]
        each["without"] = ", ".join(sorted(each["without"])) or "none"
    same = ("class", "sample_size", "patch_size", "in_channels", "num_classes", "mlp_ratio", "without")
    wrong = [key for key in (*same, "width of a head") if ours[key] != theirs[key]]
    wrong += [key for key in ("hidden_size", "encoder blocks", "decoder_layers") if ours[key] < theirs[key]]
    if wrong:
        pairs = ", ".join(f"{key} {theirs[key]} there and {ours[key]} here" for key in wrong)
        raise ValueError(f"a model grows in width, encoder blocks and decoder_layers alone: {pairs}")


def origins(small: MDTTransformer, large: MDTTransformer) -> dict[str, list[tuple[int, bool]]]:
    """For every block of every stack: which one of the small model it begins as, and whether its gates are shut.

    New blocks stand behind the old; in the encoder's second half before them, so that a long shortcut still joins the
    two blocks that it joined.
    """

    def behind(count: int, wanted: int) -> list[tuple[int, bool]]:
        if wanted > count == 0:
            raise ValueError("a model grows where it has blocks already: there is none to copy")
        return [(min(index, count - 1), index >= count) for index in range(wanted)]

    found = {}
    for stack, blocks in large.named_children():
        if not stack.endswith("blocks"):
            continue
        count, wanted = len(getattr(small, stack)), len(blocks)
        if stack == "blocks":  # encoder and decoder in one
            decoder, larger = small.config.decoder_layers, large.config.decoder_layers
            encoder = behind(count - decoder, wanted - larger)
            found[stack] = encoder + [(count - decoder + index, shut) for index, shut in behind(decoder, larger)]
        elif stack == "en_outblocks":
            found[stack] = [(count - 1 - index, shut) for index, shut in reversed(behind(count, wanted))]
        else:
            found[stack] = behind(count, wanted)
    return found


def modulation(old: Tensor, parts: int, shrink: float, *, is_bias: bool, shut: bool) -> Tensor:
    """The rows of an adaLN (shift, scale, gate; of a block twice), its scale fit for a layer norm of the larger width.

    With channels of zeros the norm makes the others 1 / `shrink` times as large: 1 + scale becomes `shrink` times it.
    """
    rows = old.unflatten(0, (parts, -1)).clone()
    rows[1::3] = shrink * rows[1::3] + (shrink - 1) * is_bias
    if shut:
        rows[2::3] = 0
    return rows.flatten(0, 1)


def place(old: Tensor, new: Tensor, row_parts: int, column_parts: int) -> None:
    """Copy `old` into the corner of `new`, or into the corner of each of its parts; a tensor's width comes last."""

    def parts(x: Tensor) -> Tensor:
        """(row parts, rows), and of a matrix (row parts, rows, column parts, columns)."""
        return (x.unflatten(1, (column_parts, -1)) if x.dim() == 2 else x).unflatten(0, (row_parts, -1))

    old = parts(old)
    parts(new)[tuple(slice(size) for size in old.shape)] = old
