"""Train the small autoencoder of the shipped model.

A diffusers `AutoencoderKL` on pixel blocks (see mdt_core/autoencoder.py): 64 px become 16 x 16 cells of 8
channels, and every convolution runs at 16 x 16, which a CPU can afford. The objective is that of latent
diffusion (arXiv 2112.10752, eq. 25) for drawings:

    |x - x'| + |grad x - grad x'| + kl_weight KL + (second half) adversarial term of a small patch critic

The image gradient term holds on to thin lines, and the KL term here is large enough for a noise that the
decoder feels: it learns to draw clean shapes from latents that are slightly wrong, as a sampler's are. No
perceptual network is used, so the judge of `train.evaluate` stays independent of what it judges.

    python -m train.autoencoder data/avatars --out runs/avatars-autoencoder
"""

import argparse
import json
import math
import time
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from mdt_core.autoencoder import decode, moments, sample_moments
from train.avatars import load


def small_autoencoder(width: int, latent_channels: int, block: int, image_size: int) -> AutoencoderKL:
    """An `AutoencoderKL` without downsampling whose channels are `block` x `block` pixels."""
    return AutoencoderKL(
        in_channels=3 * block**2,
        out_channels=3 * block**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(width,),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=image_size // block,
        scaling_factor=1.0,
        force_upcast=False,
    )


class PatchCritic(nn.Sequential):
    """Pixels (N, 3, H, W) -> realism of overlapping 23 px patches (N, 1, H/4, W/4)."""

    def __init__(self, width: int = 32):
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )


def kl_divergence(moments: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, 1)) in nats, averaged over the batch and the latent elements."""
    mean, log_variance = moments.chunk(2, dim=1)
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| plus the same of the horizontal and vertical differences, averaged."""
    dx, dy = (x - y).diff(dim=3), (x - y).diff(dim=2)
    return (x - y).abs().mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Ratio of the two losses' gradient norms at the last layer (arXiv 2012.09841, eq. 7)."""
    g_rec, g_adv = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial))
    return (g_rec.norm() / (g_adv.norm() + 1e-6)).clamp(max=1e3).detach()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions from the posterior mean."""
    errors = [(decode(vae, sample_moments(vae, moments(vae, x))) - x).square().mean() for x in pixels.split(64)]
    return 10 * math.log10(4.0 / torch.stack(errors).mean().item())


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Write each latent channel's mean and standard deviation into the autoencoder's configuration."""
    z = torch.cat([moments(vae, x).chunk(2, dim=1)[0] for x in pixels.split(64)])
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.from_numpy(load(args.data, "train").images)  # (N, 3, H, W) uint8
    to_pixels = lambda x: x.float().to(device) / 127.5 - 1.0  # noqa: E731
    validation = to_pixels(torch.from_numpy(load(args.data, "validation").images)[:512])

    vae = small_autoencoder(args.width, args.latent_channels, args.block, images.shape[-1]).to(device)
    vae = vae.to(memory_format=torch.channels_last)
    critic = PatchCritic().to(device, memory_format=torch.channels_last)
    average = deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=5e-4, betas=(0.5, 0.99), weight_decay=0.0)
    warm_up, critic_start = 100, int(args.steps * args.critic_from)

    def lr_factor(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "metrics.jsonl").open("a")
    started = time.time()
    bar = tqdm(range(args.steps), desc="autoencoder", unit="step")
    for step in bar:
        x = to_pixels(images[torch.randint(len(images), (args.batch_size,))])
        q = moments(vae, x)
        z = sample_moments(vae, q, torch.randn_like(q.chunk(2, dim=1)[0]))
        y = decode(vae, z)
        reconstruction = reconstruction_loss(x, y)
        loss = reconstruction + args.kl_weight * kl_divergence(q)
        if step >= critic_start:
            critic.requires_grad_(False)
            adversarial = -critic(y).mean()
            weight = adaptive_weight(reconstruction, adversarial, vae.decoder.conv_out.weight)
            loss = loss + args.critic_weight * weight * adversarial
            critic.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= critic_start - 200:  # the critic gets a head start
            real, fake = critic(x).mean((1, 2, 3)), critic(y.detach()).mean((1, 2, 3))
            critic_loss = F.relu(1 - critic(x)).mean() + F.relu(1 + critic(y.detach())).mean()
            critic_optimizer.zero_grad(set_to_none=True)
            critic_loss.backward()
            critic_optimizer.step()
        decay = min(args.ema, (step + 1) / (step + 10))
        for a, p in zip(average.parameters(), vae.parameters(), strict=True):
            a.lerp_(p.detach(), 1 - decay)

        if (step + 1) % args.log_every == 0 or step + 1 == args.steps:
            set_latent_statistics(average, validation)
            row = {"step": step + 1, "loss": loss.item(), "reconstruction": reconstruction.item()}
            row |= {"kl": kl_divergence(q).item(), "psnr": psnr(average, validation)}
            if step >= critic_start:
                row |= {"critic_real": real.mean().item(), "critic_fake": fake.mean().item()}
            row["seconds"] = time.time() - started
            log.write(json.dumps(row) + "\n")
            log.flush()
            bar.set_postfix(loss=f"{row['loss']:.4f}", psnr=f"{row['psnr']:.2f}")
            average.save_pretrained(args.out)
    set_latent_statistics(average, to_pixels(images[torch.randperm(len(images))[:4096]]))
    average.save_pretrained(args.out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.autoencoder", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that train.avatars wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=96, help="channels of every layer")
    parser.add_argument("--latent-channels", type=int, default=8)
    parser.add_argument("--block", type=int, default=4, help="pixels along a latent cell's side")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--kl-weight", type=float, default=1e-2)
    parser.add_argument("--critic-weight", type=float, default=0.1, help="share of the reconstruction's gradient")
    parser.add_argument("--critic-from", type=float, default=0.5, help="fraction of the steps without a critic")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
