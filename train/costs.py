"""What each recipe costs, by formulas from its model's sizes: the table that `python -m train --list` prints.

A test holds the formulas against what torch counts in the models themselves, which take twenty times as long to build.
"""

from mdt_core.presets import VERSIONS, model_config
from mdt_core.training.config import PEAK_TFLOPS, TrainingConfig, num_kept
from train.command import aligned
from train.config import RECIPES, Recipe

DEVICE, UTILISATION = "H200", 0.4  # an assumption: runs log what they reach as `mfu`
FREQUENCIES = 256  # sines and cosines of a timestep

# float32 numbers kept for each weight: itself, its gradient, its average, and what the optimizer remembers of it.
NUMBERS = {"adan": 3 + 4, "adamw": 3 + 2}

NOTE = (
    f"GMAC: billion multiply-adds of a full forward pass. memory: weights, gradients, averages and optimizer state; "
    f"activations come on top (accumulation=N and recompute=True make them less). hours: on one {DEVICE} at "
    f"{UTILISATION:.0%} of its {PEAK_TFLOPS[DEVICE]} TFLOP/s, reckoned, not measured. FIDs are the papers'."
)


class ModelCosts:
    """Weights and multiply-adds of the model that a recipe trains."""

    def __init__(self, recipe: Recipe):
        version, sizes = model_config(recipe.model, recipe.decoder_layers)
        channels, side, self.classes = recipe.data_shape
        self.width, self.heads = sizes["hidden_size"], sizes["num_heads"]
        self.grid_size = side // sizes["patch_size"]
        self.tokens, self.patch = self.grid_size**2, channels * sizes["patch_size"] ** 2  # numbers of a patch
        self.decoder_layers = sizes["decoder_layers"]
        self.encoder_layers = sizes["depth"] - self.decoder_layers

        def has(part: str, since: str) -> bool:
            return VERSIONS.index(version) >= VERSIONS.index(since) and part not in recipe.without

        self.is_mdt, self.has_bias = version != "DiT", has("relative_bias", "MDT")
        self.side_blocks = int(has("side_interpolator", "MDT"))
        # Blocks that merge a second input into their own.
        self.long_shortcuts = self.encoder_layers // 2 if has("long_shortcuts", "MDTv2") else 0
        self.dense_inputs = self.decoder_layers if has("dense_inputs", "MDTv2") else 0

    def parameters(self) -> int:
        """All of the model's weights, fixed positions among them."""
        d, t = self.width, self.tokens
        embedders = (self.patch + 1) * d + (FREQUENCIES + d + 2) * d + (self.classes + 1) * d + t * d
        bias = ((2 * self.grid_size - 1) ** 2 + 3) * self.heads if self.has_bias else 0
        block = (4 + 8 + 6) * d**2 + (4 + 5 + 6) * d + bias  # attention, MLP, adaLN
        blocks = (self.encoder_layers + self.decoder_layers + self.side_blocks) * block
        shortcuts = (self.long_shortcuts + self.dense_inputs) * (2 * d + 1) * d
        between = (t + 1) * d if self.is_mdt else 0  # positions of the decoder, mask token
        final = (d + 1) * 2 * self.patch + (d + 1) * 2 * d
        return embedders + blocks + shortcuts + between + final

    def forward_macs(self, keep: int | None = None) -> int:
        """Multiply-adds of one image's forward pass; `keep`: tokens that the encoder sees in a masked pass."""
        d, t, seen = self.width, self.tokens, self.tokens if keep is None else keep
        embedders = t * self.patch * d + FREQUENCIES * d + d**2
        encoder = self.encoder_layers * self._block_macs(seen, seen) + self.long_shortcuts * seen * 2 * d**2
        between = self.side_blocks * self._block_macs(t - seen, t) if keep is not None else 0
        decoder = self.decoder_layers * self._block_macs(t, t) + self.dense_inputs * t * 2 * d**2
        final = 2 * d**2 + t * d * 2 * self.patch
        return embedders + encoder + between + decoder + final

    def step_flops(self, training: TrainingConfig) -> int:
        """Floating-point operations of a step: forward and, twice as dear, backward; one pass or two."""
        macs = self.forward_macs()
        if training.mask_ratio is not None:
            macs += self.forward_macs(num_kept(self.tokens, sum(training.mask_ratio) / 2))
        return 6 * macs * training.batch_size

    def _block_macs(self, queries: int, tokens: int) -> int:
        """A block that answers for some of its tokens: queries, keys and values of all of them; and adaLN."""
        d = self.width
        return 3 * tokens * d**2 + 2 * queries * tokens * d + 9 * queries * d**2 + 6 * d**2


def row(name: str, recipe: Recipe) -> list[str]:
    """The recipe's line of the table."""
    training, costs = recipe.training, ModelCosts(recipe)
    parameters = costs.parameters()
    hours = costs.step_flops(training) * training.steps / (UTILISATION * PEAK_TFLOPS[DEVICE] * 1e12) / 3600
    return [
        name,
        recipe.model,
        training.optimizer,
        f"{training.steps:,} x {training.batch_size}",
        f"{parameters / 1e6:.1f} M",
        f"{costs.forward_macs() / 1e9:.2f}",
        f"{4 * NUMBERS[training.optimizer] * parameters / 2**30:.1f} GiB",
        f"{hours:.1f}" if hours > 0.05 else "< 0.1",
        recipe.expect,
    ]


def table(recipes: dict[str, Recipe] = RECIPES) -> str:
    """Every recipe, what it costs and what to expect of it."""
    head = ["recipe", "model", "optimizer", "steps x batch", "weights", "GMAC", "memory", "hours", "expect"]
    return "\n".join([*aligned([head, *(row(name, recipe) for name, recipe in recipes.items())]), "", NOTE])
