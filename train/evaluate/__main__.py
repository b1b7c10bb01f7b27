"""Sample from a model and judge the images: seeds -> images -> npz -> features -> figures.

    python -m train.evaluate --model PATH --num-images 5000 --out samples.npz --reference avatars:test
    python -m train.evaluate --model PATH --grid grid.png --per-class 8            a labelled grid to look at
    python -m train.evaluate --model PATH --reconstruct avatars:test               the autoencoder alone
    python -m train.evaluate --samples avatars:validation --reference avatars:test    images that are there already
    python -m train.evaluate --floor --reference avatars:test                      what the judge says of real images
    python -m train.evaluate --model PATH --out sweep.npz --reference avatars:test --sweep scale=1:4:0.25
    python -m train.evaluate --samples FILE.npz --reference ADM_REFERENCE.npz --judge inception      FID as published

Each class gets equally many images, in turn; ADM and DiT draw the classes at random, which a published FID includes.

The same command resumes; `accelerate launch -m train.evaluate ...` shares the sampling between processes, with the
same images. The last line of the output is JSON.
"""

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import trange

from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.training.loop import PROCESS_TIMEOUT
from train.command import Parser
from train.evaluate import features, metrics, samples
from train.evaluate.grid import draw_grid
from train.evaluate.judging import (
    JUDGES,
    Reference,
    figures,
    float64_device,
    open_judge,
    open_reference,
    plot_sweep,
    table,
)

# Word on the command line -> setting that it sweeps over, and its type.
SWEEPS = {"scale": ("guidance_scale", float), "power": ("guidance_power", float), "steps": ("num_inference_steps", int)}
DEFAULT_OUT = Path("samples.npz")


@dataclass(frozen=True)
class Candidate:
    """Images to be judged."""

    name: str
    load: Callable[[], samples.ImageSet]
    settings: dict = field(default_factory=dict)


# ---- images


def load_pipeline(model: str, device: torch.device):
    """The `mdt_core.MDTPipeline` at a folder or hub id, on a device."""
    from mdt_core import MDTPipeline

    return MDTPipeline.from_pretrained(model).to(device)


def parse_sweep(sweep: str) -> tuple[str, list[float]]:
    """`scale=1:4:0.25` -> the word and its values, both ends included."""
    try:
        word, _, span = sweep.partition("=")
        first, last, step = map(float, span.split(":"))
        values = [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]
        convert = SWEEPS[word][1]
        if step <= 0 or not values or any(convert(value) != value for value in values):
            raise ValueError
    except (KeyError, ValueError, ArithmeticError):
        raise ValueError(f"--sweep {sweep} is not WORD=FIRST:LAST:STEP with a WORD of {', '.join(SWEEPS)}") from None
    return word, [convert(round(value, 9)) for value in values]


def sample(args: argparse.Namespace, state: PartialState) -> Iterator[Candidate]:
    """Draw the images of each setting to an npz, this process its share; finished files are kept."""
    pipe = load_pipeline(args.model, args.device or state.device)
    pipe.set_progress_bar_config(disable=True)
    out = args.out or (args.grid.with_suffix(".npz") if args.grid else DEFAULT_OUT)
    only_grid = args.grid and not args.reference
    base = samples.Sampling(
        weights=samples.weights_fingerprint(pipe),
        num_images=args.num_images or (args.per_class * max(1, pipe.num_classes) if only_grid else 5000),
        first_seed=args.seed,
        num_inference_steps=args.steps,
        sampler=args.sampler,
        guidance_scale=args.scale,
        guidance_power=args.power,
    )
    word, values = parse_sweep(args.sweep) if args.sweep else (None, [None])
    for value in values:
        path = out if word is None else out.with_stem(f"{out.stem}-{word}={value}")
        sampling = base if word is None else replace(base, **{SWEEPS[word][0]: value})
        if not samples.is_finished(path, sampling):
            folder = args.png_folder or path.with_name(path.name + ".partial")
            samples.draw_together(pipe, sampling, folder, args.batch_size, state)
            if state.is_main_process:
                names = tuple(pipe.id2label[label] for label in range(pipe.num_classes))
                samples.write(path, samples.pack(folder, sampling, pipe.num_classes, names), sampling)
                if folder != args.png_folder:
                    shutil.rmtree(folder)
        yield Candidate(str(path), partial(samples.read, str(path), args.data), asdict(sampling))


@torch.inference_mode()
def reconstruct(model: str, images: samples.ImageSet, device: torch.device, batch_size: int) -> samples.ImageSet:
    """Images -> latents -> images, by a pipeline's autoencoder or one that stands in a folder of its own."""
    from diffusers import AutoModel

    from mdt_core import autoencoder

    alone = Path(model).is_dir() and not (Path(model) / "vae").is_dir()
    vae = AutoModel.from_pretrained(model, subfolder=None if alone else "vae").to(device).eval()
    decoded = np.empty(images.images.shape, np.uint8)
    for start in trange(0, len(decoded), batch_size, desc="reconstruct", unit="batch"):
        batch = torch.tensor(images.images[start : start + batch_size], device=device)
        pixels = batch.permute(0, 3, 1, 2) / 127.5 - 1  # uint8 NHWC -> NCHW in [-1, 1]
        pixels = autoencoder.decode(vae, autoencoder.encode(vae, pixels))
        batch = ((pixels + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)  # and back
        decoded[start : start + batch_size] = batch.to(torch.uint8).cpu().numpy()
    return replace(images, images=decoded)


# ---- figures


def judge(args: argparse.Namespace, candidates: list[Candidate], device: torch.device) -> list[dict]:
    """Judge each candidate against the reference, or one half of the reference against the other."""
    eye = open_judge(args.judge, device)
    real = open_reference(args.reference, eye, args.data)
    compute = float64_device(device)

    def report(name: str, real: Reference, seen: features.Features, settings: dict) -> dict:
        counts = {"num_images": len(seen), "num_reference": len(real.seen or [])}
        return {"images": name, "reference": args.reference} | counts | figures(real, seen, eye, compute) | settings

    if args.floor:
        one, other = real.halves()
        return [report("one half against the other", one, other, {})]
    reports = []
    for candidate in candidates:
        seen = features.extract(eye, candidate.load().images, name=candidate.name)
        reports.append(report(candidate.name, real, seen, candidate.settings))
    return reports


# ---- the command


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.evaluate", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="sample from this pipeline: a folder or a hub id")
    what.add_argument("--samples", metavar="SOURCE", help="judge these images: avatars:SPLIT, FOLDER or FILE.npz")
    what.add_argument("--floor", action="store_true", help="judge one half of the reference against the other")
    parser.add_argument("--reference", metavar="SOURCE", help="the real images; without it nothing is judged")
    parser.add_argument("--judge", choices=list(JUDGES), default="efflite0", help="the network that looks")
    parser.add_argument("--reconstruct", metavar="SOURCE", help="judge what the model's autoencoder makes of these")
    parser.add_argument("--num-images", type=int, help="default 5000, or what --grid needs where nothing is judged")
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="default samples.npz, or beside the grid")
    parser.add_argument("--png-folder", type=Path, metavar="FOLDER", help="keep every image as a PNG too")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="draw a labelled grid, one row per class")
    parser.add_argument("--per-class", type=int, default=8, help="images in a row of the grid (default 8)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sampler", default="dpm++")
    parser.add_argument("--scale", type=float, default=3.8, help="guidance scale")
    parser.add_argument("--power", type=float, default=4.0, help="guidance power")
    sweep = f"one run per value of {', '.join(SWEEPS)}, and a plot beside --out"
    parser.add_argument("--sweep", metavar="WORD=FIRST:LAST:STEP", help=sweep)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image (default 0)")
    parser.add_argument("--batch-size", type=int, default=32, help="changes the speed, not the images")
    parser.add_argument("--device", help="default: the best there is")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the built sets (default data)")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse calls that contradict themselves, before anything is computed."""
    if args.reconstruct and not args.model:
        raise ValueError("--reconstruct needs the --model whose autoencoder is meant")
    if args.floor and args.grid:
        raise ValueError("--grid shows images of a --model or --samples: --floor has none")
    if (args.floor or args.samples) and not (args.reference or args.grid):
        raise ValueError("--reference is missing: avatars:SPLIT, FOLDER or FILE.npz")
    if (args.out or args.png_folder) and (args.reconstruct or not args.model):
        raise ValueError("--out and --png-folder are for images sampled from a --model")
    if args.sweep and (args.grid or args.png_folder or args.reconstruct or not args.model):
        raise ValueError("--sweep goes with --model alone, without --grid, --png-folder and --reconstruct")
    for word in ("num_images", "per_class", "batch_size"):
        if getattr(args, word) is not None and getattr(args, word) < 1:
            raise ValueError(f"--{word.replace('_', '-')} must be at least 1, got {getattr(args, word)}")
    if args.reference:
        samples.find(args.reference, args.data)  # before anything is drawn


def run(args: argparse.Namespace) -> None:
    """Sample or read, draw the grid, judge, report."""
    check(args)
    args.device = args.device and choose_device(args.device)
    state = PartialState(cpu=args.device == "cpu" or cpus_alone(), timeout=PROCESS_TIMEOUT)
    device = torch.device(args.device or state.device)
    if args.reconstruct:
        args.reference = args.reference or args.reconstruct
        source = samples.read(args.reconstruct, args.data)
        images = reconstruct(args.model, source, device, args.batch_size)
        settings = {"model": args.model, "PSNR": metrics.peak_signal_to_noise(source.images, images.images)}
        candidates = [Candidate(f"{args.reconstruct} reconstructed", lambda: images, settings)]
    elif args.model:
        candidates = list(sample(args, state))
    else:
        candidates = [Candidate(args.samples, partial(samples.read, args.samples, args.data))] if args.samples else []
    if not state.is_main_process:
        return

    if args.grid:
        args.grid.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(candidates[0].load(), args.per_class).save(args.grid)
        print(args.grid)
    reports = [{"images": candidate.name} | candidate.settings for candidate in candidates]
    if args.reference:
        reports = judge(args, candidates, device)
        print(table(reports))
        if args.sweep:
            word = args.sweep.partition("=")[0]
            path = (args.out or DEFAULT_OUT).with_suffix(f".{word}.png")
            plot_sweep(reports, word, SWEEPS[word][0]).save(path)
            print(path)
    print(json.dumps(reports if args.sweep else reports[0]))


def main(argv: list[str] | None = None) -> None:
    build_parser().run(run, argv)


if __name__ == "__main__":
    main()
