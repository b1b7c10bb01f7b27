"""What each recipe costs, reckoned from its model: the table that `python -m train --list` prints."""

from functools import cache

import torch

from mdt_core import MDTTransformer, create_model
from mdt_core.training.flops import PEAK_TFLOPS, forward_macs, step_flops
from train.config import RECIPES, Recipe

DEVICE, UTILISATION = "H200", 0.4  # an assumption: runs log what they reach as `mfu`

# float32 numbers kept for each weight: itself, its gradient, its average, and what the optimizer remembers of it.
NUMBERS = {"adan": 3 + 4, "adamw": 3 + 2}

NOTE = (
    f"GMAC: billion multiply-adds of a full forward pass. memory: weights, gradients, averages and optimizer state; "
    f"activations come on top (accumulation=N and recompute=True make them less). hours: on one {DEVICE} at "
    f"{UTILISATION:.0%} of its {PEAK_TFLOPS[DEVICE]} TFLOP/s, reckoned, not measured. FIDs are the papers'."
)


@cache
def sizes(
    model: str, decoder_layers: int | None, without: tuple[str, ...], shape: tuple[int, int, int]
) -> MDTTransformer:
    """The model of a recipe, without storage."""
    channels, side, classes = shape
    with torch.device("meta"):
        return create_model(model, side, classes, decoder_layers, channels, without)


def row(name: str, recipe: Recipe) -> list[str]:
    """The recipe's line of the table."""
    training = recipe.training
    model = sizes(recipe.model, recipe.decoder_layers, recipe.without, recipe.data_shape)
    parameters = sum(p.numel() for p in model.parameters())
    hours = step_flops(model, training) * training.steps / (UTILISATION * PEAK_TFLOPS[DEVICE] * 1e12) / 3600
    return [
        name,
        recipe.model,
        training.optimizer,
        f"{training.steps:,} x {training.batch_size}",
        f"{parameters / 1e6:.1f} M",
        f"{forward_macs(model) / 1e9:.2f}",
        f"{4 * NUMBERS[training.optimizer] * parameters / 2**30:.1f} GiB",
        f"{hours:.1f}" if hours > 0.05 else "< 0.1",
        recipe.expect,
    ]


def table(recipes: dict[str, Recipe] = RECIPES) -> str:
    """Every recipe, what it costs and what to expect of it."""
    head = ["recipe", "model", "optimizer", "steps x batch", "weights", "GMAC", "memory", "hours", "expect"]
    rows = [head, *(row(name, recipe) for name, recipe in recipes.items())]
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*lines, "", NOTE])
