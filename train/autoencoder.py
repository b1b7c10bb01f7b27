"""Train the small autoencoder of the shipped model.

A diffusers `AutoencoderTiny` on pixel blocks (see mdt_core/autoencoder.py): 64 px become 16 x 16 cells of 4
channels, and every convolution runs at 16 x 16, which a CPU can afford.

It starts as the best *linear* autoencoder: convolutions with ReLU can carry a signal as its positive and its
negative part, so the first weights are the principal components of the pixel blocks and every residual branch
is zero. Training then only has to find what is not linear. The objective, for drawings:

    |x - x'| + |grad x - grad x'| / 2 + latent statistics + (last part) adversarial term of a small patch critic

The decoder is given latents with a little noise, so that the encoder spends its channels on what survives it.
`train.decoder` then tunes the decoder on what a diffusion model hands it.

    python -m train.autoencoder data/avatars --out runs/avatars-autoencoder
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from mdt_core.autoencoder import decode, encode
from mdt_core.optim import EMA
from mdt_core.runs import Run
from train.adversary import Adversary, reconstruction_loss
from train.avatars import load
from train.command import Parser

LATENT_STD = 0.25  # of the raw latents: the decoder clamps at 3, which is then far out


def small_autoencoder(encoder_width: int, decoder_width: int, latent_channels: int, block: int) -> AutoencoderTiny:
    """An `AutoencoderTiny` without downsampling whose channels are `block` x `block` pixels."""
    return AutoencoderTiny(
        in_channels=3 * block**2,
        out_channels=3 * block**2,
        encoder_block_out_channels=(encoder_width,),
        decoder_block_out_channels=(decoder_width,),
        num_encoder_blocks=(2,),
        num_decoder_blocks=(3,),
        latent_channels=latent_channels,
        scaling_factor=1 / LATENT_STD,
    )


@torch.no_grad()
def start_linear(vae: AutoencoderTiny, pixels: Tensor, block: int) -> None:
    """Make `vae` the principal-component autoencoder of the blocks of `pixels` (N, 3, H, W).

    A signal s travels as relu(s), relu(-s) in two channels; the other channels keep their random weights and
    enter nothing until training lets them.
    """
    blocks = rearrange(pixels, "n c (h p) (w q) -> (n h w) (c p q)", p=block, q=block).double()
    blocks = (blocks + 1) / 2  # AutoencoderTiny's inner range
    mean = blocks.mean(dim=0)
    variance, axes = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    c = vae.config.latent_channels
    axes, std = axes[:, -c:].T, variance[-c:].sqrt()  # (C, 3 r^2), (C,)
    analysis = LATENT_STD * axes / std[:, None]
    synthesis = (axes.T * std) / LATENT_STD

    for layer in [*vae.encoder.layers, *vae.decoder.layers]:
        if hasattr(layer, "conv"):  # a residual block
            nn.init.zeros_(layer.conv[-1].weight)
            nn.init.zeros_(layer.conv[-1].bias)
    middle = (slice(None), slice(None), 1, 1)

    def split(conv: nn.Conv2d, weight: Tensor, offset: Tensor) -> None:
        """Signal -> its positive and negative parts, in the first 2C output channels."""
        conv.weight[: 2 * c], conv.bias[: 2 * c] = 0.0, torch.cat([offset, -offset]).float()
        conv.weight[: 2 * c][middle] = torch.cat([weight, -weight]).float()

    def join(conv: nn.Conv2d, weight: Tensor, offset: Tensor) -> None:
        """The two parts -> signal."""
        nn.init.zeros_(conv.weight)
        conv.weight[:, : 2 * c, 1, 1] = torch.cat([weight, -weight], dim=1).float()
        conv.bias.copy_(offset)

    identity = torch.eye(c, dtype=torch.float64)
    split(vae.encoder.layers[0], analysis, -analysis @ mean)
    join(vae.encoder.layers[-1], identity, torch.zeros(c))
    split(vae.decoder.layers[0], identity, torch.zeros(c, dtype=torch.float64))
    join(vae.decoder.layers[-1], synthesis, mean)


@torch.no_grad()
def balance_channels(vae: AutoencoderTiny, pixels: Tensor, power: float) -> Tensor:
    """Scale the latent channels by what they mean for the picture, and undo it in the decoder.

    A linear start gives every channel the same variance, the finest detail as much as the colour. A diffusion
    model then has to settle both at the same noise level. Natural images are easier: their detail is weaker than
    their colours and drowns first (arXiv 2502.14831). Here a channel's standard deviation becomes (the change of
    the picture, when the channel changes by one standard deviation) ^ power, and the mean square over channels 1.

    Returns:
        (C,) the factors.
    """
    latents = encode(vae, pixels)
    picture, std = decode(vae, latents), latents.std(dim=(0, 2, 3))
    noise = 0.1 * torch.randn_like(latents[:, 0])
    effect = []
    for channel in range(len(std)):
        moved = latents.clone()
        moved[:, channel] += noise * std[channel]
        effect.append((decode(vae, moved) - picture).square().mean().sqrt())
    target = torch.stack(effect) ** power
    factors = target / target.square().mean().sqrt() / std
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight *= factors.view(-1, 1, 1, 1)
    last.bias *= factors
    first.weight /= factors.view(1, -1, 1, 1)
    return factors


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
    return torch.as_tensor(images).float().to(device) / 127.5 - 1.0


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load(args.data, "train")
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)  # (N, 3, H, W) uint8, (N,)
    validation = pixels_of(load(args.data, "validation").images[:512], device)
    vae = small_autoencoder(args.encoder_width, args.decoder_width, args.latent_channels, args.block).to(device)
    start_linear(vae, pixels_of(images[torch.randperm(len(images))[:512]], device), args.block)
    vae = vae.to(memory_format=torch.channels_last)
    adversary, average = Adversary(len(data.names), 5e-4, device), EMA(vae, args.ema)
    print(f"before training: {psnr(vae, validation):.2f} dB")
    weights = list(vae.parameters())
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    warm_up, critic_start = 100, int(args.steps * args.critic_from)

    def lr_factor(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    run, started = Run(args.out), time.time()
    bar = tqdm(range(args.steps), desc="autoencoder", unit="step")
    for step in bar:
        some = torch.randint(len(images), (args.batch_size,))
        x, classes = pixels_of(images[some], device), labels[some].to(device)
        latents = encode(vae, x)
        level = torch.empty(len(x), 1, 1, 1, device=device).uniform_(*args.noise)
        y = decode(vae, latents + level * torch.randn_like(latents))
        reconstruction = reconstruction_loss(x, y)
        loss = reconstruction + 0.01 * statistics_loss(latents)
        if step >= critic_start:
            last = vae.decoder.layers[-1].weight
            loss = loss + args.critic_weight * adversary.term(y, classes, reconstruction, last)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step >= critic_start - 200:  # the critic gets a head start
            real, fake = adversary.step(x, classes, y, classes)
        average.update(vae, step)

        if (step + 1) % args.log_every == 0 or step + 1 == args.steps:
            row = {"step": step + 1, "reconstruction": reconstruction.item(), "psnr": psnr(average.model, validation)}
            row["statistics"] = statistics_loss(latents).item()
            if step >= critic_start:
                row |= {"critic_real": real.item(), "critic_fake": fake.item()}
            row["seconds"] = round(time.time() - started, 1)
            run.log(row)
            bar.set_postfix(loss=f"{row['reconstruction']:.4f}", psnr=f"{row['psnr']:.2f}")
            average.model.save_pretrained(args.out)
    factors = balance_channels(average.model, validation, args.balance)
    average.model.save_pretrained(args.out)
    after = psnr(average.model, validation)
    print(f"channels scaled by {[round(factor, 3) for factor in factors.tolist()]}: {after:.2f} dB")


def main() -> None:
    parser = Parser(prog="python -m train.autoencoder", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that train.avatars wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--encoder-width", type=int, default=48)
    parser.add_argument("--decoder-width", type=int, default=96)
    parser.add_argument("--latent-channels", type=int, default=4)
    parser.add_argument("--block", type=int, default=4, help="pixels along a latent cell's side")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--noise",
        type=float,
        nargs=2,
        default=(0.0, 0.15),
        metavar=("LEAST", "MOST"),
        help="on the latents that the decoder is given, of std 1: each image draws its level between the two",
    )
    parser.add_argument("--critic-weight", type=float, default=0.1, help="share of the reconstruction's gradient")
    parser.add_argument("--critic-from", type=float, default=0.6, help="fraction of the steps without a critic")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--balance", type=float, default=0.6, metavar="POWER", help="of a channel's effect; 0: std 1")
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.run(train)


if __name__ == "__main__":
    main()
