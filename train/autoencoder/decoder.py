"""Tune the small autoencoder's decoder on the latents that it is really given: the diffusion model's own.

A decoder knows encoded pictures alone; a sampler's latents are slightly wrong, and what it makes of them is smeared
edges and mottled areas. So it is trained on three kinds of latents in equal parts, with the encoder, and with it
every latent, left as it is:

    encoded       a picture's latents, with a little noise             held to the picture and to the critic
    round trips   the same, noised half-way, and sampled back          held to the picture and to the critic
    samples       out of pure noise, as the app draws them             held to the critic alone

    python -m train.autoencoder.decoder --model runs/avatars/pipeline --data data/avatars \
        --latents data/avatars-latents --out runs/avatars-decoder

The drafts (round trips and samples) are kept in the folder: the same command goes on from them. `--width` and
`--blocks` make the decoder larger first: a model need not be trained anew to get a better one.

`--critic-weight 0 --differences 4` polishes a tuned decoder, without critic and samples: a drawing's areas are of one
colour, and a grey level of unrest in them, which a critic does not mind, is what the judge sees first.
"""

import argparse
import json
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from mdt_core import MDTPipeline
from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.autoencoder import decode
from mdt_core.diffusion import Diffusion
from mdt_core.guidance import guide
from mdt_core.runs import Run, write_whole
from mdt_core.samplers import generators, noise_like, sample, sampling_timesteps
from mdt_core.training.draws import to_device
from mdt_core.training.ema import EMA
from train.autoencoder.adversary import Adversary, adamw, reconstruction_loss
from train.autoencoder.budget import Progress
from train.autoencoder.model import pixels_of, psnr
from train.avatars import load
from train.command import Parser
from train.evaluate.samples import weights_fingerprint
from train.export import save_autoencoder
from train.latents.dataset import Latents
from train.latents.images import DrawnImages

STEPS = 25  # of dpm++, as the app opens; so are guidance scale and power
TRIPS_FROM = (14, 22)  # steps that a round trip leaves out, at least and at most: it starts at t = 400 to 80


@torch.no_grad()
def draw_drafts(pipe: MDTPipeline, latents: Tensor, labels: Tensor, first_seed: int, start: int) -> Tensor:
    """Latents of pictures, noised to step `start` of the schedule, and sampled from there.

    Args:
        pipe: gives the diffusion model.
        latents: (N, C, h, w); at `start` 0 nothing is left of them.
        labels: (N,) classes.
        first_seed: of the first image; the others follow.
        start: 0 to STEPS - 1.

    Returns:
        (N, C, h, w).
    """
    rngs = generators(range(first_seed, first_seed + len(labels)))
    timestep = sampling_timesteps("dpm++", STEPS)[start]
    noise = noise_like(latents, rngs)
    noised = noise if start == 0 else Diffusion().diffuse(latents, noise, None, timestep)
    denoise = guide(
        pipe.transformer,
        labels,
        null_class=pipe.num_classes,
        guidance_scale=3.8,
        guidance_power=4.0,
        guidance_channels=pipe.config.guidance_channels,
    )
    *_, last = sample(denoise, noised, num_inference_steps=STEPS, order=range(start, STEPS))
    return last.x_t


def drafts(args: argparse.Namespace, pipe: MDTPipeline, data: Latents, device: torch.device) -> dict[str, Tensor]:
    """`samples` with their `labels`, `trips` with the `indices` of their pictures: drawn once, then kept."""
    path = args.out / "drafts.safetensors"
    sizes = [args.num_samples, args.num_trips, args.seed]
    made_of = json.dumps([weights_fingerprint(pipe), data.shards[0].metadata.get("made_of"), sizes])
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("made_of") != made_of:
                raise ValueError(f"{path} is of another model or other settings: delete it or choose another --out")
    else:
        random = torch.Generator().manual_seed(args.seed)
        indices = torch.randperm(len(data), generator=random)[: args.num_trips]
        labels = torch.arange(args.num_samples) % pipe.num_classes
        size, first, found = args.draft_batch, 10**6, {"samples": [], "trips": []}
        with tqdm(total=len(labels) + len(indices), desc="draft", unit="image") as bar:
            for some in labels.split(size) if len(labels) else ():  # an empty tensor has one empty part
                nothing = torch.empty(len(some), *data.shape, device=device)
                found["samples"].append(draw_drafts(pipe, nothing, some.to(device), first, 0).cpu())
                first += len(some)  # not the bar's count: a bar that is switched off does not count
                bar.update(len(some))
            for some in indices.split(size) if len(indices) else ():
                mean, _, classes = (x.to(device) for x in data.batch(some.tolist()))
                start = int(torch.randint(TRIPS_FROM[0], TRIPS_FROM[1] + 1, (), generator=random))
                found["trips"].append(draw_drafts(pipe, mean, classes, first, start).cpu())
                first += len(some)
                bar.update(len(some))
        tensors = {name: torch.cat(parts) if parts else torch.empty(0, *data.shape) for name, parts in found.items()}
        tensors |= {"labels": labels, "indices": indices}
        write_whole(path, lambda partial: save_file(tensors, partial, metadata={"made_of": made_of}))
    return load_file(path)


@torch.no_grad()
def grown(vae: AutoencoderTiny, width: int | None, blocks: int | None) -> AutoencoderTiny:
    """A copy with a larger decoder that gives the same pictures (as Net2Net does, arXiv:1511.05641, section 2).

    Nothing that is there reads the new channels, and the new blocks add nothing, until training lets them.

    Args:
        width: channels of the decoder. blocks: its residual blocks. At least as many of each as it has, or None.

    Raises:
        ValueError: the decoder is larger than that, or has several stages.
    """
    if width is blocks is None:
        return deepcopy(vae)
    if len(vae.config.num_decoder_blocks) > 1:
        raise ValueError("only a decoder of one stage can be made larger: leave out --width and --blocks")
    old_width, old_blocks = vae.config.decoder_block_out_channels[0], vae.config.num_decoder_blocks[0]
    width, blocks = width or old_width, blocks or old_blocks
    if width < old_width or blocks < old_blocks:
        raise ValueError(f"the decoder has {old_blocks} blocks of {old_width} channels: choose no fewer of either")
    settings = {key: value for key, value in vae.config.items() if key != "block_out_channels"}  # which is derived
    sizes = {"decoder_block_out_channels": (width,), "num_decoder_blocks": (blocks,)}
    large = AutoencoderTiny.from_config(settings | sizes)
    large.encoder.load_state_dict(vae.encoder.state_dict())
    first, _, *old, last = vae.decoder.layers
    new_first, _, *new, new_last = large.decoder.layers
    for ours, theirs in zip([new_first, *new[:old_blocks], new_last], [first, *old, last], strict=True):
        for conv, source in zip(_convolutions(ours), _convolutions(theirs), strict=True):
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


def pictures_of(images: Tensor, places: Tensor, flipped: Tensor) -> Tensor:
    """Those of `images` (M, 3, H, W) uint8 at `places` (N,), mirrored where `flipped` (N,): (N, 3, H, W) in [-1, 1]."""
    pixels = pixels_of(images[places], images.device)
    return torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def tune(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    pipe, data = MDTPipeline.from_pretrained(args.model).to(device), Latents(args.latents)
    source = DrawnImages(args.data, "train")
    images, classes = (torch.from_numpy(part).to(device) for part in (source.split.images, source.split.labels))
    data.check_encoder(pipe.vae, f"that of {args.model}")
    if data.made_of.get("source") not in (None, source.digest):
        raise ValueError(f"{args.latents} was made of other pictures than {args.data}: run train.latents on those")
    data.cache(device)
    critic = args.critic_weight > 0
    if not critic:
        args.num_samples = 0  # which are held to the critic alone
    progress = Progress(args.steps, args.minutes)  # refuses a wrong number before the drafts take their minutes
    drawn = drafts(args, pipe, data, device)
    sample_latents, sample_labels, trip_latents = (drawn[name].to(device) for name in ("samples", "labels", "trips"))
    vae = grown(pipe.vae, args.width, args.blocks)
    vae = vae.to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    dtype = choose_dtype("auto", device)
    lower = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
    adversary = Adversary(len(data.id2label), args.critic_lr, device) if critic else None
    average = EMA(vae, args.ema)
    weights = list(vae.decoder.parameters())
    optimizer = adamw(weights, args.lr, (0.5, 0.99))
    validation = pixels_of(load(args.data, "validation").images[:512], device)
    part, run = args.batch_size // (3 if critic else 2), Run(args.out)

    def some(count: int) -> Tensor:
        return torch.randint(max(count, 1), (part if count else 0,))

    def take(
        rate: float | Tensor,
        done: float | Tensor,
        heard: float | Tensor,
        latents: Tensor,
        labels: Tensor,
        places: Tensor,
        flipped: Tensor,
        others: Tensor,
    ) -> dict[str, Tensor]:
        """One step on encoded pictures, round trips and samples, and on `others`, of which nothing of it was made."""
        optimizer.param_groups[0]["lr"] = rate
        originals = pictures_of(images, places, flipped)
        with lower():
            y = decode(vae, latents).float()
        reconstruction = reconstruction_loss(originals, y[: 2 * part], args.differences)
        loss, seen = reconstruction, {"reconstruction": reconstruction.detach()}
        if critic:
            with lower():
                adversarial = adversary.term(y, labels, reconstruction, vae.decoder.layers[-1].weight)
            loss = loss + heard * adversarial
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if critic:
            pictures = torch.cat([originals, pixels_of(images[others], device)])
            their_classes = torch.cat([labels[: 2 * part], classes[others]])
            with lower():
                seen["critic_real"], seen["critic_fake"] = adversary.step(pictures, their_classes, y, labels)
        average.update(vae, done)
        return seen

    tune_once = recorded(take, device)
    bar = tqdm(progress, total=progress.total, desc="decoder", unit="step")
    for step in bar:
        encoded, trips, samples = some(len(data)), some(len(drawn["trips"])), some(len(drawn["samples"]))
        mean = data.batch(encoded.tolist())[0].to(device)
        mean += args.noise * torch.rand(part, 1, 1, 1, device=device) * torch.randn_like(mean)
        places, flipped = data.sources(torch.cat([encoded, drawn["indices"][trips]]).numpy())
        chosen = [places, flipped, trips, samples, some(len(images))]
        places, flipped, trips, samples, others = (to_device(torch.as_tensor(each), device) for each in chosen)
        latents = torch.cat([mean, trip_latents[trips], sample_latents[samples]])
        labels = torch.cat([classes[places], sample_labels[samples]])
        heard = args.critic_weight * min(1.0, step / 500)  # the critic learns first
        rate = args.lr * (1 - 0.95 * progress.share)
        seen = tune_once(rate, float(step), heard, latents, labels, places, flipped, others)

        if (step + 1) % args.log_every == 0 or progress.is_over(step + 1):
            row = {"step": step + 1, "psnr": psnr(average.model, validation)}
            row |= {name: value.item() for name, value in seen.items()} | {"seconds": round(progress.seconds, 1)}
            run.log(row)
            bar.set_postfix(loss=f"{row['reconstruction']:.4f}", psnr=f"{row['psnr']:.2f}")
            save_autoencoder(average.model, args.out)


def main() -> None:
    parser = Parser(prog="python -m train.autoencoder.decoder", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="pipeline folder: the diffusion model and the autoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder that train.avatars wrote")
    parser.add_argument("--latents", type=Path, required=True, help="folder that train.latents wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, help="channels of a larger decoder; by default it stays as it is")
    parser.add_argument("--blocks", type=int, help="its residual blocks")
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument("--num-trips", type=int, default=2048)
    parser.add_argument("--draft-batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, help="tune for so long, whatever the number of steps")
    parser.add_argument("--batch-size", type=int, default=18)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--critic-lr", type=float, default=5e-4)
    parser.add_argument("--critic-weight", type=float, default=0.4, help="share of the reconstruction's gradient; or 0")
    parser.add_argument("--differences", type=float, default=0.5, help="weight of neighbours' differences in the loss")
    parser.add_argument("--noise", type=float, default=0.15, help="most on encoded latents")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.run(tune)


if __name__ == "__main__":
    main()
