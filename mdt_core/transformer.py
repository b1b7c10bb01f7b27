"""The masked diffusion transformer and what it grew from: DiT -> MDT -> MDTv2, each adding only its difference.

    DiT     arXiv 2212.09748, section 3: tokens, condition, blocks with adaLN-Zero.
    MDT     arXiv 2303.14389, section 3.2: in a masked pass the encoder sees the kept tokens alone, a
            side-interpolator predicts the hidden ones, the decoder sees all; learnable positions and a
            relative position bias in every block.
    MDTv2   the same paper, section 3.3: U-Net-like long shortcuts in the encoder, the noisy input to every
            decoder block.

Departures from the published code: masking is an argument of the call, not a property of training mode; the
null class is a label like any other; shortcut layers start as the identity on their own input.

Letters: N batch, T tokens, K kept tokens, D width, R rank of all low-rank additions, C latent channels, p patch size,
(h, w) latent cells.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from mdt_core.layers import (
    AdapterShares,
    Block,
    Conditioning,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    sincos_positions,
    token_pairs,
)
from mdt_core.masking import gather, hidden_tokens, restore, scatter
from mdt_core.saved_config import tidy_config

# Of what can be built: a file's few bytes could ask for more than any memory.
MAX_DEPTH, MAX_GRID, MAX_ADAPTER_WIDTH = 512, 64, 8192


class MDTTransformer(ModelMixin, ConfigMixin):
    """What the whole family shares: noisy latents -> tokens -> [blocks of the subclass] -> epsilon and variance.

    Use `create_model`, `load_official` or `from_pretrained`, which give the right subclass.

    Args:
        sample_size: side of the square latents, in cells.
        patch_size: side p of a token's patch, in cells.
        in_channels: latent channels C.
        hidden_size: width D.
        depth: number of blocks, decoder included, side-interpolator not.
        num_heads: attention heads of every block.
        mlp_ratio: hidden width of the MLPs over D.
        num_classes: classes; the label `num_classes` is the null class.
        decoder_layers: how many of the blocks are the decoder (MDT, MDTv2).
        without: which of the class's `parts` to leave out, for an ablation (the paper's Tables 6 and 8).
        adapters: the classes of each low-rank addition to the blocks' layers (LoRA), see
            `mdt_core.training.initialize.add_adapter`.
        adapter_rank: of each of them.
    """

    parts: tuple[str, ...] = ()  # what the class adds to a DiT, each of which can be left out
    _repeated_blocks = ("Block",)  # what diffusers' `compile_repeated_blocks` compiles

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        decoder_layers: int = 0,
        without: Sequence[str] = (),
        adapters: Sequence[Sequence[int]] = (),
        adapter_rank: int = 64,
    ):
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"sample_size {sample_size} is not a multiple of patch_size {patch_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}, and of 4")
        if not 0 <= decoder_layers < depth:
            raise ValueError(f"decoder_layers must be in 0..{depth - 1}, got {decoder_layers}")
        if depth > MAX_DEPTH or sample_size > MAX_GRID * patch_size:
            sizes = f"depth {depth}, sample_size {sample_size} in patches of {patch_size}"
            raise ValueError(f"{sizes}: at most {MAX_DEPTH} blocks and {MAX_GRID} x {MAX_GRID} tokens can be built")
        if not all(0 <= label < num_classes for classes in adapters for label in classes):
            raise ValueError(f"adapters are lists of classes, each in 0..{num_classes - 1}, not {adapters!r}")
        if not 0 < adapter_rank <= MAX_ADAPTER_WIDTH // max(1, len(adapters)):
            ranks = f"{len(adapters)} adapters of rank {adapter_rank}"
            raise ValueError(f"{ranks}: all ranks together must be 1 to {MAX_ADAPTER_WIDTH}")
        if unknown := set(without) - set(self.parts):
            parts = ", ".join(self.parts) or "nothing"
            raise ValueError(f"{type(self).__name__} can go without {parts}, not {', '.join(sorted(unknown))}")
        self.register_to_config(adapters=[list(classes) for classes in adapters])  # as a file has them
        self.grid_size = sample_size // patch_size
        self.num_tokens = self.grid_size**2
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(self._positions(), requires_grad=self.has("learnable_positions"))
        self.build_blocks()
        self.final_layer = FinalLayer(hidden_size, patch_size, 2 * in_channels)
        self.adapter_shares = AdapterShares(num_classes, adapters, adapter_rank) if adapters else None
        self.initialize_weights()

    def has(self, part: str) -> bool:
        """Whether the model has one of the parts that its class can have."""
        return part in self.parts and part not in self.config.without

    def _positions(self) -> Tensor:
        return sincos_positions(self.config.hidden_size, self.grid_size)

    def _block(self, shortcut: bool = False) -> Block:
        config, grid_size = self.config, self.grid_size if self.has("relative_bias") else None
        lora_width = len(config.adapters) * config.adapter_rank
        return Block(config.hidden_size, config.num_heads, config.mlp_ratio, grid_size, shortcut, lora_width)

    # --- what a subclass says ------------------------------------------------------------------------------

    def build_blocks(self) -> None:
        """Make the transformer blocks."""
        raise NotImplementedError

    def encode(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """Tokens the encoder sees (N, K, D) -> (N, K, D); K is T where `keep` is None."""
        raise NotImplementedError

    def interpolate(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """Encoded tokens (N, K, D) -> all tokens (N, T, D)."""
        raise NotImplementedError

    def decode(self, x: Tensor, c: Conditioning, inputs: Tensor) -> Tensor:
        """All tokens (N, T, D) -> (N, T, D); `inputs` are the embedded noisy ones."""
        raise NotImplementedError

    # --- the forward pass ----------------------------------------------------------------------------------

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict the noise and the reverse step's variance.

        Args:
            x: (N, C, h, w) noisy latents x_t.
            timesteps: (N,) training timesteps, 0..999.
            class_labels: (N,) int64 in 0..num_classes; num_classes is the null class. Or mixes of their embeddings,
                (N, num_classes + 1) weights.
            keep: (N, K) indices of the tokens the encoder may see, in any order: the masked pass. None: all.

        Returns:
            (N, 2C, h, w): epsilon, then the interpolation coefficient v of the learnt variance, in [-1, 1].
        """
        c = Conditioning(self.embed(timesteps.to(x.device), class_labels), self.shares(class_labels))
        return self.predict(x, c, keep)

    def embed(self, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """What a pass is conditioned on: (N,), and (N,) or (N, num_classes + 1) -> (N, D)."""
        return self.t_embedder(timesteps) + self.y_embedder(class_labels)

    def shares(self, class_labels: Tensor) -> Tensor | None:
        """How much of each low-rank addition an image has, by its class: (N, 1, R); None where the model has none."""
        return None if self.adapter_shares is None else self.adapter_shares(class_labels)

    def predict(self, x: Tensor, c: Conditioning, keep: Tensor | None = None) -> Tensor:
        """The forward pass once its conditioning c is known; arguments and result as in `forward`."""
        inputs = self.x_embedder(x) + self.pos_embed                          # (N, T, D)
        tokens = inputs if keep is None else gather(inputs, keep)             # (N, K, D)
        tokens = self.encode(tokens, c, keep)                                 # (N, K, D)
        tokens = self.interpolate(tokens, c, keep)                            # (N, T, D)
        tokens = self.decode(tokens, c, inputs)                               # (N, T, D)
        patches = self.final_layer(tokens, c.modulation(self.final_layer))    # (N, T, p p 2C)
        return self.unpatchify(patches)                                       # (N, 2C, h, w)

    def pairs(self, queries: Tensor | None, keys: Tensor | None = None) -> Tensor | None:
        """Tokens (N, Q) and (N, K), None for all T -> rows of a bias table (N, Q, K); None where `queries` is None."""
        if queries is None:
            return None
        keys = torch.arange(self.num_tokens, device=queries.device)[None] if keys is None else keys
        return token_pairs(queries, keys, self.grid_size)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(N, T, p p C) -> (N, C, h, w)."""
        p, g = self.config.patch_size, self.grid_size
        return rearrange(patches, "n (h w) (p q c) -> n c (h p) (w q)", h=g, w=g, p=p, q=p)

    # --- weights -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """DiT's initialisation: every block starts as the identity, the output as zero (adaLN-Zero)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if name.endswith("skip_linear"):
                module.weight.copy_(torch.eye(*module.weight.shape))  # the identity on x, nothing of the skip
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
            elif name.endswith("relative_position_bias_table"):
                nn.init.trunc_normal_(parameter, std=0.02)

    def save_pretrained(self, save_directory: str | Path, *, max_shard_size: int | str = "10GB", **kwargs) -> None:
        """As diffusers does; the folder keeps no path of this machine.

        `max_shard_size` is named here because a pipeline hands its own on only where it finds the name.
        """
        super().save_pretrained(save_directory, max_shard_size=max_shard_size, **kwargs)
        tidy_config(Path(save_directory) / self.config_name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "MDTTransformer":
        """As diffusers does, but strict, and of the class that was saved, whichever of the family is asked.

        Raises:
            ValueError: another model, or its weights are not those that its configuration asks for.
        """
        with_info = kwargs.pop("output_loading_info", False)
        where = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")
        folder = {key: kwargs[key] for key in where if key in kwargs}
        saved = cls.load_config(pretrained_model_name_or_path, **folder).get("_class_name")
        family = {member.__name__: member for member in (DiT, MDT, MDTv2)}
        if saved not in family:
            raise ValueError(f"{pretrained_model_name_or_path} holds a {saved}, not one of {', '.join(family)}")
        model, info = super(MDTTransformer, family[saved]).from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        if odd := [*info["missing_keys"], *info["unexpected_keys"]]:
            raise ValueError(
                f"{pretrained_model_name_or_path} does not suit its configuration: {odd[0]} is missing or extra"
            )
        return (model, info) if with_info else model


class DiT(MDTTransformer):
    """The diffusion transformer: fixed positions, no bias, no masking."""

    def build_blocks(self) -> None:
        """One row of blocks; the last `decoder_layers` of them are the decoder."""
        self.blocks = nn.ModuleList(self._block() for _ in range(self.config.depth))

    def encode(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """The blocks before the decoder, for all tokens or those that are kept."""
        pairs = self.pairs(keep, keep)
        for block in self.blocks[: self.config.depth - self.config.decoder_layers]:
            x = block(x, c(block, pairs))                                     # (N, K, D)
        return x

    def interpolate(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """Nothing to do: a DiT has no masked pass."""
        if keep is not None:
            raise ValueError("a DiT has no side-interpolator: `keep` needs an MDT or MDTv2")
        return x

    def decode(self, x: Tensor, c: Conditioning, inputs: Tensor) -> Tensor:
        """The decoder's blocks, for all tokens."""
        for block in self.blocks[self.config.depth - self.config.decoder_layers :]:
            x = block(x, c(block))                                            # (N, T, D)
        return x


class MDT(DiT):
    """Adds the masked pass: side-interpolator, decoder positions, mask token; and the two position terms."""

    parts = ("relative_bias", "learnable_positions", "side_interpolator")

    def build_blocks(self) -> None:
        """A DiT's, and the side-interpolator."""
        super().build_blocks()
        self.build_side_interpolator()

    def build_side_interpolator(self) -> None:
        """The side block, and what stands at the hidden tokens' places before it."""
        self.decoder_pos_embed = nn.Parameter(self._positions(), requires_grad=self.has("learnable_positions"))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, self.config.hidden_size))
        self.sideblocks = nn.ModuleList(self._block() for _ in range(self.has("side_interpolator")))

    def interpolate(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """Predict the H hidden tokens; a masked shortcut leaves those that were kept as the encoder made them."""
        if keep is None:
            return x + self.decoder_pos_embed                                 # (N, T, D)
        places = self.mask_token.expand(1, self.num_tokens, -1)               # (1, T, D)
        x = restore(x, keep, fill=places) + self.decoder_pos_embed            # (N, T, D)
        hidden = hidden_tokens(keep, self.num_tokens)                         # (N, H)
        for block in self.sideblocks:                                         # one; none in an ablation
            guess = block(x, c(block, self.pairs(hidden)), queries=hidden)    # (N, H, D)
            x = scatter(x, hidden, guess)                                     # (N, T, D)
        return x


class MDTv2(MDT):
    """Adds the shortcuts: encoder halves joined as in a U-Net, the noisy input into every decoder block."""

    parts = (*MDT.parts, "long_shortcuts", "dense_inputs")

    def build_blocks(self) -> None:
        """Two halves of an encoder, a decoder, and the side-interpolator."""
        config = self.config
        half, odd = divmod(config.depth - config.decoder_layers, 2)
        if odd:
            raise ValueError(f"MDTv2's encoder has two halves: depth - decoder_layers = {2 * half + 1} is odd")
        self.en_inblocks = nn.ModuleList(self._block() for _ in range(half))
        self.en_outblocks = nn.ModuleList(self._block(shortcut=self.has("long_shortcuts")) for _ in range(half))
        dense = self.has("dense_inputs")
        self.de_blocks = nn.ModuleList(self._block(shortcut=dense) for _ in range(config.decoder_layers))
        self.build_side_interpolator()

    def encode(self, x: Tensor, c: Conditioning, keep: Tensor | None) -> Tensor:
        """Both halves; each block of the second is also given what its mirror image in the first one made."""
        pairs, skips = self.pairs(keep, keep), []
        for block in self.en_inblocks:
            x = block(x, c(block, pairs))                                     # (N, K, D)
            skips.append(x)
        for block in self.en_outblocks:
            x = block(x, c(block, pairs), skips.pop())                        # (N, K, D)
        return x

    def decode(self, x: Tensor, c: Conditioning, inputs: Tensor) -> Tensor:
        """The decoder's blocks, each also given the noisy input."""
        for block in self.de_blocks:
            x = block(x, c(block), inputs)                                    # (N, T, D)
        return x


for _model in (MDTTransformer, DiT, MDT, MDTv2):
    _model.__module__ = "mdt_core"  # a saved pipeline names the package, whichever file of it holds the class
