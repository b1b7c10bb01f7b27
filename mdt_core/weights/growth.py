"""Begin a larger model as the function that a smaller, trained one computes: wider, deeper, or both.

The idea is Net2Net's (arXiv 1511.05641), but where Net2Net copies units, here new channels are zero. Deeper: a new
block is a copy of its neighbour whose gates are zero (adaLN-Zero: DiT, arXiv 2212.09748, section 3.2), so it begins as
the identity. Wider: the tokens get channels that are zero at first. A layer norm then sees a smaller variance, for
which its adaLN makes up: exactly where a token's channels have mean zero, and nearly so elsewhere.

The weights from new inputs to old outputs start at zero where those inputs are not zero themselves, so that nothing old
changes. The weights from old inputs to new outputs are fresh, so that all that is new learns from the first steps on.
"""

import math
import re

import torch
from torch import Tensor

from mdt_core.transformer import MDTTransformer

# How many parts, each as wide as the model, a weight's rows or columns consist of (query, key, value). Elsewhere one.
ROW_PARTS = {"attn.qkv": 3, "adaLN_modulation.1": 6, "final_layer.adaLN_modulation.1": 2}
COLUMN_PARTS = {"skip_linear": 2}
# These give the tokens their channels without a gate: the new channels start at zero.
ZERO_ROWS = ("x_embedder.proj", "pos_embed", "decoder_pos_embed", "mask_token")
# The new inputs of these layers are not zero: their weights to the old outputs start at zero.
ZERO_COLUMNS = ("t_embedder.mlp.2", "attn.proj", "mlp.fc2")


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
    state, origin = small.state_dict(), origins(small, large)
    shrink = math.sqrt(small.config.hidden_size / large.config.hidden_size)
    for key, new in large.state_dict().items():
        source, is_new, name = key, False, key
        if block := re.fullmatch(r"(\w*blocks)\.(\d+)\.(.+)", key):
            stack, number, name = block.groups()
            index, is_new = origin[stack][int(number)]
            source = f"{stack}.{index}.{name}"
        layer = name.removesuffix(".weight").removesuffix(".bias")
        if layer.endswith("relative_position_index") or (is_new and layer == "skip_linear"):
            continue  # a fresh shortcut is the identity on the tokens
        old = state[source].to(new)
        if layer.endswith("adaLN_modulation.1"):
            old = modulation(old, ROW_PARTS[layer], shrink, is_bias=key.endswith("bias"), zero_gate=is_new)
        if layer in ZERO_ROWS:
            new.zero_()
        if layer in ZERO_COLUMNS:
            new[: len(old)] = 0
        place(old, new, ROW_PARTS.get(layer, 1), COLUMN_PARTS.get(layer, 1))


def check_fits(small: MDTTransformer, large: MDTTransformer) -> None:
    """Raise ValueError where `large` is not a larger model of the same kind, or they have adapters."""
    if small.config.adapters or large.config.adapters:
        raise ValueError("a model grows without adapters: grow it first, then teach it")
    there, here = ({"class": type(model).__name__, **model.config} for model in (small, large))
    for sizes in (there, here):
        sizes["width of a head"] = sizes["hidden_size"] // sizes["num_heads"]
        sizes["encoder blocks"] = sizes["depth"] - sizes["decoder_layers"]
        sizes["without"] = ", ".join(sorted(sizes["without"])) or "none"
    same = ("class", "sample_size", "patch_size", "in_channels", "num_classes", "mlp_ratio", "without")
    wrong = [key for key in (*same, "width of a head") if here[key] != there[key]]
    wrong += [key for key in ("hidden_size", "encoder blocks", "decoder_layers") if here[key] < there[key]]
    if wrong:
        pairs = ", ".join(f"{key} {there[key]} there and {here[key]} here" for key in wrong)
        raise ValueError(f"a model grows in width, encoder blocks and decoder_layers alone: {pairs}")


def origins(small: MDTTransformer, large: MDTTransformer) -> dict[str, list[tuple[int, bool]]]:
    """For every block of every stack: the index of the small model's block to copy, and whether the block is new.

    New blocks stand behind the old; in the encoder's second half before them, so that a long shortcut still joins the
    two blocks that it joined.
    """

    def append_new(count: int, wanted: int) -> list[tuple[int, bool]]:
        if wanted > count == 0:
            raise ValueError("a model grows where it has blocks already: there is none to copy")
        return [(min(index, count - 1), index >= count) for index in range(wanted)]

    stacks = {}
    for stack, blocks in large.named_children():
        if not stack.endswith("blocks"):
            continue
        count, wanted = len(getattr(small, stack)), len(blocks)
        if stack == "blocks":  # encoder and decoder in one
            decoder, larger = small.config.decoder_layers, large.config.decoder_layers
            encoder = append_new(count - decoder, wanted - larger)
            stacks[stack] = encoder + [(count - decoder + i, is_new) for i, is_new in append_new(decoder, larger)]
        elif stack == "en_outblocks":
            stacks[stack] = [(count - 1 - i, is_new) for i, is_new in reversed(append_new(count, wanted))]
        else:
            stacks[stack] = append_new(count, wanted)
    return stacks


def modulation(old: Tensor, parts: int, shrink: float, *, is_bias: bool, zero_gate: bool) -> Tensor:
    """The rows of an adaLN (shift, scale, gate; of a block twice), its scale fit for a layer norm of the larger width.

    With channels of zeros the norm makes the others 1 / `shrink` times as large: 1 + scale becomes `shrink` times it.
    """
    rows = old.unflatten(0, (parts, -1)).clone()
    rows[1::3] = shrink * rows[1::3] + (shrink - 1) * is_bias
    if zero_gate:
        rows[2::3] = 0
    return rows.flatten(0, 1)


def place(old: Tensor, new: Tensor, row_parts: int, column_parts: int) -> None:
    """Copy `old` into the corner of `new`, or into the corner of each of its parts; a tensor's width comes last."""

    def parts(x: Tensor) -> Tensor:
        """(row parts, rows), and of a matrix (row parts, rows, column parts, columns)."""
        return (x.unflatten(1, (column_parts, -1)) if x.dim() == 2 else x).unflatten(0, (row_parts, -1))

    old = parts(old)
    parts(new)[tuple(slice(size) for size in old.shape)] = old
