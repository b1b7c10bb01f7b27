"""The small autoencoder: its network, its linear start, its growth, and what is measured of it.

A diffusers `AutoencoderTiny` on pixel blocks (mdt_core/autoencoder.py). For a CPU it has one stage: 64 px become
16 x 16 cells of 4 channels, and every convolution runs at 16 x 16. For a GPU it can have more: with two of them 128 px
become 32 x 32 blocks and then 16 x 16 cells.

It starts as a good *linear* autoencoder, the best one where there is one stage: convolutions with ReLU can carry a
signal as its positive and its negative part, so the first weights are the principal components of the pixel blocks
and every residual branch is zero. Training then only has to find what is not linear.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from einops import rearrange
from torch import Tensor, nn

from mdt_core.autoencoder import decode, encode

LATENT_STD = 0.25  # of the raw latents: the decoder clamps at 3, which is then far out


def small_autoencoder(
    encoder_width: int,
    decoder_width: int,
    latent_channels: int,
    block: int,
    encoder_blocks: Sequence[int] = (2,),
    decoder_blocks: Sequence[int] = (3,),
) -> AutoencoderTiny:
    """An `AutoencoderTiny` whose channels are `block` x `block` pixels, its residual branches zero.

    Args:
        encoder_width: channels of the encoder, in all of its stages; decoder_width: of the decoder.
        latent_channels: C.
        block: pixels along the side of a block, which becomes a cell of the first stage.
        encoder_blocks: residual blocks of each stage; a stage's cells are twice as long as the one's before.
        decoder_blocks: likewise, the other way round.

    Raises:
        ValueError: encoder and decoder have different numbers of stages, or a stage has no block.
    """
    if min(*encoder_blocks, *decoder_blocks) < 1:
        raise ValueError("every stage needs a residual block: see encoder_blocks and decoder_blocks")
    if len(encoder_blocks) != len(decoder_blocks):
        raise ValueError(f"an encoder of {len(encoder_blocks)} stages needs a decoder of as many: see decoder_blocks")
    vae = AutoencoderTiny(
        in_channels=3 * block**2,
        out_channels=3 * block**2,
        encoder_block_out_channels=(encoder_width,) * len(encoder_blocks),
        decoder_block_out_channels=(decoder_width,) * len(decoder_blocks),
        num_encoder_blocks=tuple(encoder_blocks),
        num_decoder_blocks=tuple(decoder_blocks),
        latent_channels=latent_channels,
        scaling_factor=1 / LATENT_STD,
    )
    for layer in [*vae.encoder.layers, *vae.decoder.layers]:
        if hasattr(layer, "conv"):  # a residual block
            nn.init.zeros_(layer.conv[-1].weight)
            nn.init.zeros_(layer.conv[-1].bias)
    return vae


class PreciseConv2d(nn.Conv2d):
    """A convolution in float32 also where autocast asks for bfloat16, which can be a grey level off."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def make_output_precise(vae: AutoencoderTiny) -> None:
    """Let the decoder's last layer be a `PreciseConv2d`; its weights stay, and keep their names."""
    layers = vae.decoder.layers
    precise = PreciseConv2d(
        layers[-1].in_channels, layers[-1].out_channels, layers[-1].kernel_size, padding=layers[-1].padding
    )
    precise.weight, precise.bias = layers[-1].weight, layers[-1].bias
    layers[-1] = precise


@torch.no_grad()
def start_linear(vae: AutoencoderTiny, pixels: Tensor, block: int) -> None:
    """Make `vae` the linear autoencoder that principal components of the blocks of `pixels` (N, 3, H, W) give.

    A signal s travels as relu(s), relu(-s) in two channels; the other channels keep their random weights, and
    nothing reads them until training does. Between two stages of the encoder, the signals of 2 x 2 cells become their
    principal components; the decoder's convolution after an upsampling is the best one by least squares.

    Raises:
        ValueError: there are too few channels for the latent ones.
    """
    # Principal components, stage by stage.
    widths = vae.config.encoder_block_out_channels + vae.config.decoder_block_out_channels
    if min(widths) < 2 * vae.config.latent_channels:
        least = f"at least {2 * vae.config.latent_channels}, twice latent_channels"
        raise ValueError(f"encoder_width and decoder_width must be {least}")
    first, *down, last = (layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d))
    signals = rearrange(pixels.double(), "n c (h p) (w q) -> n (c p q) h w", p=block, q=block)
    signals = (signals + 1) / 2  # AutoencoderTiny's inner range
    mean = signals.mean(dim=(0, 2, 3))
    signals = signals - mean.view(1, -1, 1, 1)
    levels, maps = [], []  # of each stage: its signals (N, k, h, w), and the map (k, inputs) that gave them
    for stage in range(len(down) + 1):
        if stage:
            signals = F.pixel_unshuffle(signals, 2)  # 2 x 2 cells become one
        final = stage == len(down)
        kept = vae.config.latent_channels if final else min(signals.shape[1], min(widths) // 2)
        rows = rearrange(signals, "n c h w -> (n h w) c")
        variance, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        scale = LATENT_STD / variance[-kept:].sqrt() if final else torch.ones_like(variance[-kept:])
        maps.append(axes[:, -kept:].T * scale[:, None])
        signals = torch.einsum("nchw,kc->nkhw", signals, maps[-1])
        levels.append(signals)

    # The encoder makes them.
    set_signals(first, maps[0][:, :, None, None], offset=-maps[0] @ mean, of_pairs=False)
    for conv, map_ in zip(down, maps[1:], strict=True):
        set_signals(conv, rearrange(map_, "k (c p q) -> k c p q", p=2, q=2))
    identity = torch.eye(vae.config.latent_channels, dtype=torch.float64)[:, :, None, None]
    set_signals(last, identity, to_pairs=False)

    # The decoder undoes that.
    first, *up, last = (layer for layer in vae.decoder.layers if isinstance(layer, nn.Conv2d))
    set_signals(first, identity, of_pairs=False)
    for conv, target in zip(up, levels[-2::-1], strict=True):
        coarse = F.interpolate(signals, scale_factor=2)
        cells = rearrange(F.unfold(coarse, 3, padding=1), "n c l -> (n l) c")
        kernel = torch.linalg.solve(cells.T @ cells, cells.T @ rearrange(target, "n k h w -> (n h w) k"))
        kernel = rearrange(kernel, "(c p q) k -> k c p q", p=3, q=3)
        set_signals(conv, kernel)
        signals = F.conv2d(coarse, kernel, padding=1)
    back = torch.linalg.pinv(maps[0])
    set_signals(last, back[:, :, None, None], offset=mean, to_pairs=False)


def set_signals(
    conv: nn.Conv2d, kernel: Tensor, offset: Tensor | None = None, of_pairs: bool = True, to_pairs: bool = True
) -> None:
    """Let a 3 x 3 convolution map signals to signals.

    Args:
        kernel: (K, C, side, side), from C signals to K; sides of 1 and 2 begin in the middle of the convolution's.
        offset: (K,), added.
        of_pairs: a signal comes in two channels, its positive and its negative part; else in one.
        to_pairs: so it leaves.
    """
    if of_pairs:
        kernel = torch.cat([kernel, -kernel], dim=1)
    if to_pairs:
        kernel = torch.cat([kernel, -kernel])
        offset = None if offset is None else torch.cat([offset, -offset])
    outputs, inputs, side, _ = kernel.shape
    start = 0 if side == 3 else 1
    conv.weight[:outputs] = 0
    conv.weight[:outputs, :inputs, start : start + side, start : start + side] = kernel.float()
    if conv.bias is not None:
        conv.bias[:outputs] = 0 if offset is None else offset.float()


@torch.no_grad()
def balance_channels(vae: AutoencoderTiny, pixels: Tensor, power: float) -> Tensor:
    """Scale the latent channels by their effect on the image, and undo it in the decoder.

    A linear start gives every channel the same variance, the finest detail as much as the colour. A diffusion
    model then has to settle both at the same noise level. Natural images are easier: their detail is weaker than
    their colours and drowns first (arXiv 2502.14831). Here a channel's standard deviation becomes (the change of
    the image, when the channel changes by one standard deviation) ^ power, and the mean square over channels 1.

    Returns:
        (C,) the factors.
    """
    latents = encode(vae, pixels)
    images, std = decode(vae, latents), latents.std(dim=(0, 2, 3))
    generator = torch.Generator(latents.device).manual_seed(0)
    noise = 0.1 * torch.randn(latents[:, 0].shape, generator=generator, device=latents.device)
    effect = []
    for channel in range(len(std)):
        moved = latents.clone()
        moved[:, channel] += noise * std[channel]
        effect.append((decode(vae, moved) - images).square().mean().sqrt())
    target = torch.stack(effect) ** power
    factors = target / target.square().mean().sqrt() / std
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight *= factors.view(-1, 1, 1, 1)
    last.bias *= factors
    first.weight /= factors.view(1, -1, 1, 1)
    return factors


@torch.no_grad()
def grow_decoder(vae: AutoencoderTiny, width: int | None, blocks: int | None) -> AutoencoderTiny:
    """A copy with a larger decoder that gives the same images (as Net2Net does, arXiv 1511.05641, section 2).

    The weights from new channels to old ones are zero, and so is what new blocks add, until training moves them.

    Args:
        width: channels of the decoder. blocks: its residual blocks. At least as many of each as it has, or None.

    Raises:
        ValueError: the decoder is larger than that, or has several stages.
    """
    if width is blocks is None:
        return deepcopy(vae)
    if len(vae.config.num_decoder_blocks) > 1:
        raise ValueError("only a decoder of one stage can be made larger: leave out width and blocks")
    old_width, old_blocks = vae.config.decoder_block_out_channels[0], vae.config.num_decoder_blocks[0]
    width, blocks = width or old_width, blocks or old_blocks
    if width < old_width or blocks < old_blocks:
        raise ValueError(f"the decoder has {old_blocks} blocks of {old_width} channels: choose no fewer of either")
    config = {key: value for key, value in vae.config.items() if key != "block_out_channels"}  # derived from the rest
    sizes = {"decoder_block_out_channels": (width,), "num_decoder_blocks": (blocks,)}
    large = cast(AutoencoderTiny, AutoencoderTiny.from_config(config | sizes))
    large.encoder.load_state_dict(vae.encoder.state_dict())
    first, _, *old, last = vae.decoder.layers
    new_first, _, *new, new_last = large.decoder.layers
    for layer, old_layer in zip([new_first, *new[:old_blocks], new_last], [first, *old, last], strict=True):
        for conv, source in zip(_convolutions(layer), _convolutions(old_layer), strict=True):
            outputs, inputs = source.weight.shape[:2]
            conv.weight[:outputs] = 0
            conv.weight[:outputs, :inputs] = source.weight
            conv.bias[:outputs] = source.bias
    for block in new[old_blocks:]:
        nn.init.zeros_(block.conv[-1].weight)
        nn.init.zeros_(block.conv[-1].bias)
    return large


def _convolutions(layer: nn.Module) -> list[nn.Conv2d]:
    return [module for module in layer.modules() if isinstance(module, nn.Conv2d)]


def statistics_loss(latents: Tensor) -> Tensor:
    """Squared mean and squared log standard deviation of each channel, averaged: zero at mean 0, std 1."""
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return (mean**2 + std.log() ** 2).mean()


@torch.no_grad()
def psnr(vae: AutoencoderTiny, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio of reconstructions, in dB."""
    errors = [(decode(vae, encode(vae, x)).clamp(-1, 1) - x).square().mean() for x in pixels.split(64)]
    return 10 * math.log10(4.0 / torch.stack(errors).mean().item())


def pixels_of(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 (N, 3, H, W) -> [-1, 1]."""
    return torch.as_tensor(images).to(device).float() / 127.5 - 1.0
