"""The published computation, written plainly and slowly: what speed is measured against and results are tested against.

Attention by matrix products and a softmax with the position bias added, every block's modulation at every step, both
branches of guidance at every step, one bias gathered per image in the masked pass. It shares nothing with the model but
its weights, under their published names: arXiv 2212.09748 (DiT), arXiv 2303.14389 (MDT, MDTv2).

Letters: N batch, T tokens of an image, K kept tokens, D width, A heads, G grid side, C latent channels, p patch size.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReferenceModel:
    """`ReferenceModel(model)(x, timesteps, class_labels, keep=None)` is what `model(...)` should give; float32.

    The model's own parameters are used, so gradients arrive in them, and a later change of weights is seen.
    """

    def __init__(self, model: nn.Module):
        self.weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.config, self.version = model.config, type(model).__name__

    def __call__(self, x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """(N, C, h, w), (N,), (N,), (N, K) or None -> (N, 2C, h, w)."""
        w, p = self.weights, self.config.patch_size
        inputs = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=p)
        inputs = inputs.flatten(2).transpose(1, 2) + w["pos_embed"]  # (N, T, D)
        c = self.embed_timesteps(timesteps) + w["y_embedder.embedding_table.weight"][class_labels]
        decoder_layers = self.config.decoder_layers
        tokens = inputs if keep is None else gather(inputs, keep)
        if self.version == "MDTv2":
            half, skips = (self.config.depth - decoder_layers) // 2, []
            for i in range(half):
                tokens = self.block(f"en_inblocks.{i}", tokens, c, keep)
                skips.append(tokens)
            for i in range(half):
                tokens = self.block(f"en_outblocks.{i}", tokens, c, keep, skip=skips.pop())
            tokens = self.interpolate(tokens, c, keep)
            for i in range(decoder_layers):
                tokens = self.block(f"de_blocks.{i}", tokens, c, skip=inputs)
        else:
            encoder_layers = self.config.depth - decoder_layers
            for i in range(encoder_layers):
                tokens = self.block(f"blocks.{i}", tokens, c, keep)
            if self.version == "MDT":
                tokens = self.interpolate(tokens, c, keep)
            for i in range(encoder_layers, self.config.depth):
                tokens = self.block(f"blocks.{i}", tokens, c)
        shift, scale = self.modulation("final_layer", c, parts=2)
        patches = self.linear("final_layer.linear", layer_norm(tokens) * (1 + scale) + shift)
        n, side = len(x), self.config.sample_size // p
        patches = patches.reshape(n, side, side, p, p, -1)  # row, column, row within, column within, channel
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, side * p, side * p)

    def block(self, name: str, x: Tensor, c: Tensor, keep: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
        """A transformer block with adaLN-Zero (DiT, section 3.2), before it the shortcut where there is one."""
        if f"{name}.skip_linear.weight" in self.weights:
            x = self.linear(f"{name}.skip_linear", torch.cat([x, skip], dim=-1))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(name, c, parts=6)
        x = x + gate_a * self.attention(f"{name}.attn", layer_norm(x) * (1 + scale_a) + shift_a, keep)
        hidden = self.linear(f"{name}.mlp.fc1", layer_norm(x) * (1 + scale_m) + shift_m)
        return x + gate_m * self.linear(f"{name}.mlp.fc2", F.gelu(hidden, approximate="tanh"))

    def attention(self, name: str, x: Tensor, keep: Tensor | None) -> Tensor:
        """(N, T, D) -> (N, T, D), or for the kept tokens alone (N, K, D)."""
        n, t, d = x.shape
        heads = self.config.num_heads
        q, k, v = self.linear(f"{name}.qkv", x).reshape(n, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) / math.sqrt(d // heads)  # (N, A, T, T)
        if f"{name}.rel_pos_bias.relative_position_bias_table" in self.weights:
            logits = logits + self.position_bias(f"{name}.rel_pos_bias", keep)
        out = logits.softmax(dim=-1) @ v
        return self.linear(f"{name}.proj", out.transpose(1, 2).reshape(n, t, d))

    def position_bias(self, name: str, keep: Tensor | None) -> Tensor:
        """(A, T, T), or for the kept tokens alone (N, A, K, K)."""
        index = self.weights[f"{name}.relative_position_index"]
        bias = self.weights[f"{name}.relative_position_bias_table"][index.flatten()]
        bias = bias.reshape(*index.shape, -1).permute(2, 0, 1)
        if keep is None:
            return bias
        n, k, heads, t = *keep.shape, *bias.shape[:2]
        rows = bias.expand(n, heads, t, t).gather(2, keep[:, None, :, None].expand(n, heads, k, t))
        return rows.gather(3, keep[:, None, None, :].expand(n, heads, k, k))

    def interpolate(self, x: Tensor, c: Tensor, keep: Tensor | None) -> Tensor:
        """MDT, section 3.2: encoded tokens (N, K, D) -> all (N, T, D), the hidden ones guessed by the side block."""
        positions = self.weights["decoder_pos_embed"]
        if keep is None:
            return x + positions
        n, t, d = len(x), *positions.shape[1:]
        hidden = torch.ones(n, t, 1, dtype=x.dtype, device=x.device).scatter(1, keep.unsqueeze(-1), 0.0)
        places = self.weights["mask_token"].expand(n, t, d)
        x = places.scatter(1, keep.unsqueeze(-1).expand(-1, -1, d), x) + positions
        guess = self.block("sideblocks.0", x, c) if "sideblocks.0.attn.qkv.weight" in self.weights else x
        return (1 - hidden) * x + hidden * guess

    def embed_timesteps(self, timesteps: Tensor) -> Tensor:
        """(N,) -> (N, D): cosines and sines of 128 frequencies, then two layers."""
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, device=timesteps.device) / 128)
        angles = timesteps[:, None] * frequencies
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
        return self.linear("t_embedder.mlp.2", F.silu(self.linear("t_embedder.mlp.0", waves)))

    def modulation(self, name: str, c: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Shift, scale and gate: `parts` times (N, 1, D)."""
        return self.linear(f"{name}.adaLN_modulation.1", F.silu(c)).unsqueeze(1).chunk(parts, dim=-1)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The linear layer of this name."""
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


def layer_norm(x: Tensor) -> Tensor:
    """Over the width, without weights of its own: adaLN scales and shifts."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def gather(tokens: Tensor, keep: Tensor) -> Tensor:
    """The kept tokens: (N, T, D), (N, K) -> (N, K, D)."""
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def guided_reference(
    reference: ReferenceModel,
    class_labels: Tensor,
    guidance_scale: float = 3.8,
    guidance_power: float = 4.0,
    channels: int = 3,
) -> Callable[[Tensor, int], Tensor]:
    """`denoise(x_t, t)` as published: both branches in one batch at every step, `channels` of epsilon guided."""
    null = torch.full_like(class_labels, reference.config.num_classes)
    both = torch.cat([class_labels, null])

    def denoise(x_t: Tensor, t: int) -> Tensor:
        timesteps = torch.full((2 * len(x_t),), t, device=x_t.device)
        conditional, unconditional = reference(torch.cat([x_t, x_t]), timesteps, both).chunk(2)
        weight = 1 + (guidance_scale - 1) * (1 - math.cos(math.pi * (1 - t / 1000) ** guidance_power)) / 2
        difference = conditional[:, :channels] - unconditional[:, :channels]
        epsilon = unconditional[:, :channels] + weight * difference
        return torch.cat([epsilon, conditional[:, channels:]], dim=1)

    return denoise
