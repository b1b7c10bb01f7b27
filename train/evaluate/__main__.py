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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.command.parser import chosen_settings, number
from mdt_core.guidance import KINDS
from mdt_core.pipeline.settings import SAMPLING_PRESETS
from mdt_core.training.loop import PROCESS_TIMEOUT
from train.command import Parser
from train.evaluate import features, metrics, samples, sources
from train.evaluate.charts import save_chart
from train.evaluate.grid import class_grid
from train.evaluate.judging import (
    JUDGES,
    ReferenceStatistics,
    figures,
    float64_device,
    open_judge,
    open_reference,
    table,
)
from train.evaluate.reconstruct import reconstruct
from train.evaluate.sweep import SWEEPS, parse_sweep, sweep_panels

DEFAULT_OUT = Path("samples.npz")


@dataclass(frozen=True)
class Candidate:
    """Images to be judged."""

    name: str
    load: Callable[[], sources.ImageSet]
    settings: dict = field(default_factory=dict)


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.evaluate", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="sample from this pipeline: a folder or a hub id")
    what.add_argument("--samples", metavar="SOURCE", help=f"judge these images: {sources.HELP}")
    what.add_argument("--floor", action="store_true", help="judge one half of the reference against the other")
    parser.add_argument("--reference", metavar="SOURCE", help="the real images; without it nothing is judged")
    parser.add_argument("--judge", choices=list(JUDGES), default="efflite0", help="the network that looks")
    parser.add_argument("--reconstruct", metavar="SOURCE", help="judge what the model's autoencoder makes of these")
    parser.add_argument(
        "--num-images", type=number(int, 1), help="default 5000, or what --grid needs where nothing is judged"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="default samples.npz, or beside the grid")
    parser.add_argument("--png-folder", type=Path, metavar="FOLDER", help="keep every image as a PNG too")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="draw a labelled grid, one row per class")
    parser.add_argument("--per-class", type=number(int, 1), default=8, help="images in a row of the grid (default 8)")
    parser.add_argument(
        "--preset", choices=list(SAMPLING_PRESETS), default="balanced", help="of the model (default balanced)"
    )
    parser.add_argument("--sampler", help="default of this and the next six: the preset's")
    parser.add_argument("--steps", type=number(int, 1))
    parser.add_argument("--scale", type=number(float, 0), help="guidance scale")
    parser.add_argument("--power", type=number(float, 0), help="guidance power")
    parser.add_argument("--guidance", choices=KINDS, help="what the weak branch lacks")
    parser.add_argument(
        "--interval", nargs=2, type=number(int, 0, 999), metavar=("LOW", "HIGH"), help="timesteps that are guided"
    )
    parser.add_argument("--first-timestep", type=number(int, 1, 999), help="where the steps begin")
    sweep = f"one run per value of {', '.join(SWEEPS)}, and a plot beside --out"
    parser.add_argument("--sweep", metavar="WORD=FIRST:LAST:STEP", help=sweep)
    parser.add_argument("--seed", type=number(int, 0), default=0, help="seed of the first image (default 0)")
    parser.add_argument("--batch-size", type=number(int, 1), default=32, help="changes the speed, not the images")
    sources.add_source_options(parser.add_argument)
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse calls that contradict themselves, before anything is computed."""
    if args.reconstruct and not args.model:
        raise ValueError("--reconstruct needs the --model whose autoencoder is meant")
    if args.floor and args.grid:
        raise ValueError("--grid shows images of a --model or --samples: --floor has none")
    if (args.floor or args.samples) and not (args.reference or args.grid):
        raise ValueError(f"--reference is missing: {sources.HELP}")
    if (args.out or args.png_folder) and (args.reconstruct or not args.model):
        raise ValueError("--out and --png-folder are for images sampled from a --model")
    if args.sweep and (args.grid or args.png_folder or args.reconstruct or not args.model):
        raise ValueError("--sweep goes with --model alone, without --grid, --png-folder and --reconstruct")
    if args.reference:
        sources.locate(args.reference, args.data)  # before anything is drawn


def sample(args: argparse.Namespace, state: PartialState) -> list[Candidate]:
    """Draw the images of each setting to an npz, this process its share; finished files are kept."""
    pipe = samples.load_pipeline(args.model, args.device or state.device)
    only_grid = args.grid and not args.reference
    sampling = samples.Sampling(
        weights=samples.weights_fingerprint(pipe),
        num_images=args.num_images or (args.per_class * max(1, pipe.num_classes) if only_grid else 5000),
        first_seed=args.seed,
        **pipe.sampling_presets[args.preset].but(**chosen_settings(args)).arguments,
    )
    out = args.out or (args.grid.with_suffix(".npz") if args.grid else DEFAULT_OUT)
    runs = {out: sampling}
    if args.sweep:
        word, values = parse_sweep(args.sweep)
        setting = SWEEPS[word][0]
        runs = {out.with_stem(f"{out.stem}-{word}={v}"): replace(sampling, **{setting: v}) for v in values}
    for path, run_sampling in runs.items():
        samples.draw_to_file(pipe, run_sampling, path, args.batch_size, state, args.png_folder)
    return [Candidate(str(path), partial(sources.read, str(path), args.data), asdict(s)) for path, s in runs.items()]


def judge(args: argparse.Namespace, candidates: list[Candidate], device: torch.device) -> list[dict]:
    """Judge each candidate against the reference, or with --floor one half of the reference against the other."""
    network = open_judge(args.judge, device)
    reference = open_reference(args.reference, network, args.data, args.size)
    compute = float64_device(device)

    def report(name: str, real: ReferenceStatistics, generated: features.Features, settings: dict) -> dict:
        counts = {"num_images": len(generated), "num_reference": len(real.features or [])}
        values = figures(real, generated, network, compute)
        return {"images": name, "reference": args.reference} | counts | values | settings

    if args.floor:
        return [report("one half against the other", *reference.halves(), {})]
    reports = []
    for candidate in candidates:
        generated = features.extract(network, candidate.load().images, name=candidate.name)
        reports.append(report(candidate.name, reference, generated, candidate.settings))
    return reports


def candidates_of(args: argparse.Namespace, state: PartialState, device: torch.device) -> list[Candidate]:
    """What the command line asks to judge or to show."""
    if args.reconstruct:
        originals = sources.read(args.reconstruct, args.data, args.size)
        images = reconstruct(args.model, originals, device, args.batch_size)
        settings = {"model": args.model, "PSNR": metrics.peak_signal_to_noise(originals.images, images.images)}
        return [Candidate(f"{args.reconstruct} reconstructed", lambda: images, settings)]
    if args.model:
        return sample(args, state)
    if args.samples:
        return [Candidate(args.samples, partial(sources.read, args.samples, args.data, args.size))]
    return []


def run(args: argparse.Namespace) -> None:
    """Sample or read, draw the grid, judge, report."""
    check(args)
    args.device = args.device and choose_device(args.device)
    args.reference = args.reference or args.reconstruct
    state = PartialState(cpu=args.device == "cpu" or cpus_alone(), timeout=PROCESS_TIMEOUT)
    device = torch.device(args.device or state.device)
    candidates = candidates_of(args, state, device)
    if not state.is_main_process:
        return

    if args.grid:
        args.grid.parent.mkdir(parents=True, exist_ok=True)
        class_grid(candidates[0].load(), args.per_class).image.save(args.grid)
        print(args.grid)
    reports = [{"images": candidate.name} | candidate.settings for candidate in candidates]
    if args.reference:
        reports = judge(args, candidates, device)
        print(table(reports))
    if args.sweep and args.reference:
        word = args.sweep.partition("=")[0]
        path = (args.out or DEFAULT_OUT).with_suffix(f".{word}.png")
        save_chart(sweep_panels(reports, word), path)
        print(path)
    print(json.dumps(reports if args.sweep else reports[0]))


if __name__ == "__main__":
    build_parser().run(run)
