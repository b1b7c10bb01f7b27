"""How fast models learn: quality at a run's milestones, and how much sooner one recipe gets where another ends.

    python -m train.convergence evaluate runs/avatars runs/avatars-dit --num-images 400
    python -m train.convergence report runs/avatars runs/avatars-dit --baseline avatars-dit --out runs/convergence

`evaluate` opens the averaged weights that a run has kept at exponentially spaced steps, draws the same seeds and
classes from each, and writes KID-EffLite0 against a reference and the loss on held-out latents to
RUN/evaluation.jsonl. The same command goes on where it stopped; `torchrun --nproc_per_node N -m train.convergence ...`
shares the work between processes. `report` makes a table and a plot of what was written. With `--in-turns` it also
takes the seconds of a step anew, runs taking turns in one process: logs of different hours do not compare.
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from mdt_core import MDTTransformer
from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.bench.timing import take_turns
from mdt_core.runs import Run
from mdt_core.training.config import TrainingConfig
from mdt_core.training.loop import PROCESS_TIMEOUT
from mdt_core.weights.hub import open_autoencoder
from train.bench import Training
from train.command import Parser
from train.convergence.report import VALIDATION_IMAGES, Contender, contenders, in_full, plot, report
from train.convergence.validation import ValidationDraws, validation_losses
from train.evaluate import features, metrics, samples
from train.export import assemble
from train.latents.dataset import Latents


def milestones(run: Run, wanted: list[int] | None = None) -> dict[int, Path]:
    """Step -> averaged weights, of the steps that are also pictured in samples/, or of those that are wanted.

    Raises:
        ValueError: a wanted step, or any, is missing.
    """
    kept = {step: folder / "transformer" for step, folder in run.checkpoints.items()}
    steps = wanted or [step for step in kept if step in run.samples]
    if not steps or not kept.keys() >= set(steps):
        raise ValueError(f"{run.folder} has checkpoints of steps {list(kept)}, not of {wanted or 'any milestone'}")
    return {step: kept[step] for step in steps}


def evaluate_run(run: Run, args: argparse.Namespace, state: PartialState, real: features.Features) -> None:
    """Evaluate every milestone of a run that has no row of these settings yet."""
    settings = {
        "num_images": args.num_images,
        "first_seed": args.seed,
        "guidance_scale": args.scale,
        "guidance_power": args.power,
        "num_inference_steps": args.steps,
    }
    key = settings | {"reference": args.reference, "validation_images": args.validation_images}
    done = {row["step"] for row in run.evaluations if key.items() <= in_full(row).items()}
    todo = {step: path for step, path in milestones(run, args.at).items() if step not in done}
    state.wait_for_everyone()  # every process has read before the first row is written
    data, device = Latents(run.config["latents"], "validation"), args.device or state.device
    id2label = {} if run.config.get("unconditional") else data.id2label
    draws = ValidationDraws.of(data, args.validation_images, labelled=bool(id2label))
    vae, eye = open_autoencoder(run.config["vae"]).to(device), features.EffLite0(device)

    def mine(count: int) -> list[range]:
        indices = range(count)
        return samples.share(indices, args.batch_size, state.process_index, state.num_processes)

    for step, path in todo.items():
        transformer = MDTTransformer.from_pretrained(path).to(device).eval()
        pipe = assemble(transformer, vae, id2label)
        pipe.set_progress_bar_config(disable=True)
        sampling = samples.Sampling(weights=samples.weights_fingerprint(pipe), sampler="dpm++", **settings)
        folder = run.folder / f".{path.parent.name}.samples"
        samples.draw_together(pipe, sampling, folder, args.batch_size, state)
        images = samples.pack(folder, sampling, pipe.num_classes, ()).images
        own = np.array_split(images, state.num_processes)[state.process_index]
        found = features.extract(eye, own, name=f"{run.name} at step {step}")
        seen = np.concatenate(gather_object([found.pooled]))
        losses = gather_object([validation_losses(transformer, draws, mine(len(draws)), device)])
        if state.is_main_process:
            kid = metrics.kernel_distance(real.pooled, seen)
            plain, weighted = torch.cat(losses, 1).mean(1).tolist()
            row = {"step": step, "kid_efflite0": kid.value, "kid_error": kid.error}
            row |= {"validation_loss": plain, "validation_loss_min_snr": weighted}
            run.write_evaluation(row | key)
            shutil.rmtree(folder)
            print(f"{run.name}, step {step}: KID {kid.value:.3f} ± {kid.error:.3f}, loss {plain:.4f}", flush=True)
        state.wait_for_everyone()


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the milestones of every run."""
    args.device = args.device and choose_device(args.device)
    state = PartialState(cpu=args.device == "cpu" or cpus_alone(), timeout=PROCESS_TIMEOUT)
    device = args.device or state.device
    with state.main_process_first():
        images = samples.read(args.reference, args.data).images
        real = features.cached(args.data / "features", features.EffLite0(device), images, args.reference)
    for folder in args.runs:
        evaluate_run(Run(folder), args, state, real)


def timed_in_turns(found: list[Contender], runs: Mapping[str, Run], rounds: int) -> list[Contender]:
    """The same with seconds of a step that were measured side by side: random images, each run's own settings.

    Args:
        found: what is compared.
        runs: name -> run.
        rounds: steps of each that count. The first contender's median, times the median ratio of each to it.
    """
    device = PartialState(cpu=cpus_alone()).device
    bfloat16 = choose_dtype("auto", device) == torch.bfloat16  # as training chooses
    work = {}
    for one in found:
        checkpoints = list(runs[one.name].checkpoints.values())
        if not checkpoints:
            raise ValueError(f"{runs[one.name].folder} has no checkpoint to take steps with: leave out --in-turns")
        model = MDTTransformer.from_pretrained(checkpoints[-1] / "transformer").to(device)
        work[one.name] = Training(model, TrainingConfig(**runs[one.name].config["training"]), False, bfloat16)
    times = take_turns(work, rounds, warmup=2, device=device)
    first = times[found[0].name]
    return [replace(one, seconds_per_step=first.median / times[one.name].ratio(first)) for one in found]


def write_report(args: argparse.Namespace) -> None:
    """Write report.md and convergence.png."""
    runs = [Run(folder) for folder in args.runs]
    found = contenders(runs)
    if args.in_turns:
        found = timed_in_turns(found, {run.name: run for run in runs}, args.in_turns)
    text = report(found, args.baseline)
    args.out.mkdir(parents=True, exist_ok=True)
    plot(found, args.baseline).save(args.out / "convergence.png")
    (args.out / "report.md").write_text(text)
    print(f"{text}\n{args.out / 'report.md'}, {args.out / 'convergence.png'}")


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.convergence", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("evaluate", help="KID and validation loss at a run's milestones -> evaluation.jsonl")
    one.set_defaults(call=evaluate)
    one.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    one.add_argument("--num-images", type=int, default=400, help="samples of each milestone (default 400)")
    one.add_argument("--at", type=int, nargs="+", metavar="STEP", help="these checkpoints; default: all milestones")
    one.add_argument("--steps", type=int, default=20, help="of dpm++ (default 20)")
    one.add_argument(
        "--scale", type=float, default=1.0, help="guidance scale (default 1: no guidance, the model alone)"
    )
    one.add_argument(
        "--power", type=float, default=0.0, help="guidance power (default 0: the same weight at all steps)"
    )
    one.add_argument("--seed", type=int, default=0, help="seed of the first sample (default 0)")
    one.add_argument("--reference", metavar="SOURCE", default="avatars:test", help="real images (default avatars:test)")
    one.add_argument(
        "--validation-images", type=int, default=VALIDATION_IMAGES, help="latents of the loss, four draws each"
    )
    one.add_argument("--batch-size", type=int, default=64, help="changes the speed, not the figures")
    one.add_argument("--device", help="default: the best there is")
    one.add_argument("--data", type=Path, default=Path("data"), help="folder of the built sets (default data)")
    other = commands.add_parser("report", help="evaluation.jsonl of several runs -> a table and a plot")
    other.set_defaults(call=write_report)
    other.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; seeds of a recipe are averaged")
    other.add_argument("--baseline", required=True, metavar="NAME", help="the run whose final quality is to be reached")
    other.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for report.md and convergence.png")
    in_turns = "take so many steps of each run in turns, for seconds that compare; default: the runs' own logs"
    other.add_argument("--in-turns", type=int, metavar="STEPS", help=in_turns)
    return parser


def main(argv: list[str] | None = None) -> None:
    build_parser().run(lambda args: args.call(args), argv)


if __name__ == "__main__":
    main()
