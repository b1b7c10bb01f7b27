"""Train the small autoencoder of the shipped model.

A diffusers `AutoencoderTiny` on pixel blocks (see mdt_core/autoencoder.py). For a CPU it has one stage: 64 px become
16 x 16 cells of 4 channels, and every convolution runs at 16 x 16. For a GPU it can have more, each half as wide as
the one before: with two of them 128 px become 32 x 32 blocks and then 16 x 16 cells.

It starts as a good *linear* autoencoder, the best one where there is one stage: convolutions with ReLU can carry a
signal as its positive and its negative part, so the first weights are the principal components of the pixel blocks
and every residual branch is zero. Training then only has to find what is not linear. The objective, for drawings:

    |x - x'| + |grad x - grad x'| / 2 + latent statistics + (last part) adversarial term of a small patch critic

The decoder is given latents with a little noise, so that the encoder spends its channels on what survives it.
`train.autoencoder.decoder` then tunes the decoder on what a diffusion model hands it.

    python -m train.autoencoder data/avatars --out runs/avatars-autoencoder
    python -m train.autoencoder data/avatars-128 --out runs/avatars-128-autoencoder --latent-channels 12 \
        --encoder-width 64 --encoder-blocks 1 2 --decoder-width 128 --decoder-blocks 2 3 --batch-size 128 \
        --steps 11000 --critic-weight 0.4 --critic-from 0.4
"""

import argparse
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.autoencoder import decode, encode
from mdt_core.runs import Run
from mdt_core.training.draws import to_device
from mdt_core.training.ema import EMA
from train.autoencoder.adversary import Adversary, adamw, reconstruction_loss
from train.autoencoder.budget import Progress
from train.autoencoder.model import (
    balance_channels,
    pixels_of,
    psnr,
    small_autoencoder,
    start_linear,
    statistics_loss,
)
from train.avatars import load
from train.command import Parser
from train.export import save_autoencoder

WARM_UP = 100  # steps
HEAD_START = 0.05  # of the training, in which the critic learns before it is heard


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    run, progress = Run(args.out), Progress(args.steps, args.minutes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load(args.data, "train")
    images, labels = (torch.from_numpy(part).to(device) for part in (data.images, data.labels))  # uint8 (N, 3, H, W)
    validation = pixels_of(load(args.data, "validation").images[:512], device)
    sizes = args.encoder_width, args.decoder_width, args.latent_channels, args.block
    vae = small_autoencoder(*sizes, args.encoder_blocks, args.decoder_blocks).to(device)
    start_linear(vae, pixels_of(images[torch.randperm(len(images))[:512]], device), args.block)
    vae = vae.to(memory_format=torch.channels_last)
    dtype = choose_dtype("auto", device)
    lower = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
    adversary, average = Adversary(len(data.names), 5e-4, device), EMA(vae, args.ema)
    print(f"before training: {psnr(vae, validation):.2f} dB")
    weights = list(vae.parameters())
    optimizer = adamw(weights, args.lr, (0.9, 0.99))

    def take(rate: float | Tensor, done: float | Tensor, some: Tensor, critic: str) -> dict[str, Tensor]:
        """One step on the images at `some`, whose critic is "away", "learning" or "heard"."""
        optimizer.param_groups[0]["lr"] = rate
        x, classes = pixels_of(images[some], device), labels[some]
        level = torch.empty(len(x), 1, 1, 1, device=device).uniform_(*args.noise)
        with lower():
            latents = encode(vae, x).float()
            y = decode(vae, latents + level * torch.randn_like(latents)).float()
        reconstruction, statistics = reconstruction_loss(x, y), statistics_loss(latents)
        loss, seen = reconstruction + 0.01 * statistics, {"reconstruction": reconstruction, "statistics": statistics}
        if critic == "heard":
            last = vae.decoder.layers[-1].weight
            with lower():
                loss = loss + args.critic_weight * adversary.term(y, classes, reconstruction, last)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if critic != "away":
            with lower():
                seen["critic_real"], seen["critic_fake"] = adversary.step(x, classes, y, classes)
        average.update(vae, done)
        return {name: value.detach() for name, value in seen.items()}

    steps = {critic: recorded(partial(take, critic=critic), device) for critic in ("away", "learning", "heard")}
    bar = tqdm(progress, total=progress.total, desc="autoencoder", unit="step")
    for step in bar:
        cosine = (1 + math.cos(math.pi * progress.share)) / 2
        rate = args.lr * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * cosine)
        critic = "heard" if progress.share >= args.critic_from else "learning"
        critic = critic if progress.share >= args.critic_from - HEAD_START else "away"
        some = to_device(torch.randint(len(images), (args.batch_size,)), device)
        seen = steps[critic](rate, float(step), some)

        if (step + 1) % args.log_every == 0 or progress.is_over(step + 1):
            row = {"step": step + 1, "psnr": psnr(average.model, validation)}
            row |= {name: value.item() for name, value in seen.items()} | {"seconds": round(progress.seconds, 1)}
            run.log(row)
            bar.set_postfix(loss=f"{row['reconstruction']:.4f}", psnr=f"{row['psnr']:.2f}")
            save_autoencoder(average.model, args.out)
    factors = balance_channels(average.model, validation, args.balance)
    save_autoencoder(average.model, args.out)
    after = psnr(average.model, validation)
    print(f"channels scaled by {[round(factor, 3) for factor in factors.tolist()]}: {after:.2f} dB")


def main() -> None:
    parser = Parser(prog="python -m train.autoencoder", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that train.avatars wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="train for so long, whatever the number of steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--encoder-width", type=int, default=48)
    parser.add_argument("--decoder-width", type=int, default=96)
    stages = {"type": int, "nargs": "+", "metavar": "BLOCKS"}
    parser.add_argument("--encoder-blocks", **stages, default=[2], help="residual blocks of each stage")
    parser.add_argument("--decoder-blocks", **stages, default=[3], help="likewise, from the latents on")
    parser.add_argument("--latent-channels", type=int, default=4)
    parser.add_argument("--block", type=int, default=4, help="pixels along the side of a cell of the first stage")
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
