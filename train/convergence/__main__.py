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
from pathlib import Path

from accelerate import PartialState

from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.command.parser import number
from mdt_core.runs import Run
from mdt_core.training.loop import PROCESS_TIMEOUT
from train.command import Parser
from train.convergence.contenders import VALIDATION_IMAGES, contenders_of
from train.convergence.milestones import EvaluationSettings, evaluate_run
from train.convergence.report import write_report
from train.convergence.step_times import timed_in_turns
from train.evaluate import sources
from train.evaluate.features import cached
from train.evaluate.judging import open_judge


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.convergence", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    option = commands.add_parser("evaluate", help="KID and loss at milestones -> evaluation.jsonl").add_argument
    option("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    option("--num-images", type=number(int, 1), default=400, help="samples of each milestone (default 400)")
    option("--at", type=number(int, 0), nargs="+", metavar="STEP", help="these checkpoints; default: all milestones")
    option("--steps", type=number(int, 1), default=20, help="of dpm++ (default 20)")
    option(
        "--scale", type=number(float, 0), default=1.0, help="guidance scale (default 1: no guidance, the model alone)"
    )
    option(
        "--power", type=number(float, 0), default=0.0, help="guidance power (default 0: the same weight at all steps)"
    )
    option("--seed", type=number(int, 0), default=0, help="seed of the first sample (default 0)")
    option("--reference", metavar="SOURCE", default="avatars:test", help=f"real images: {sources.HELP}")
    option(
        "--validation-images",
        type=number(int, 1),
        default=VALIDATION_IMAGES,
        help="latents of the loss, four draws each",
    )
    option("--batch-size", type=number(int, 1), default=64, help="changes the speed, not the figures")
    sources.add_source_options(option)

    option = commands.add_parser("report", help="evaluation.jsonl of several runs -> a table and a plot").add_argument
    option("runs", nargs="+", type=Path, metavar="RUN", help="run folders; seeds of a recipe are averaged")
    option("--baseline", required=True, metavar="NAME", help="the run whose final quality is to be reached")
    option("--out", type=Path, required=True, metavar="FOLDER", help="for report.md and convergence.png")
    in_turns = "take so many steps of each run in turns, for seconds that compare; default: the runs' own logs"
    option("--in-turns", type=number(int, 1), metavar="STEPS", help=in_turns)
    return parser


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate the milestones of every run."""
    args.device = args.device and choose_device(args.device)
    state = PartialState(cpu=args.device == "cpu" or cpus_alone(), timeout=PROCESS_TIMEOUT)
    device = args.device or state.device
    judge = open_judge("efflite0", device)
    with state.main_process_first():
        images = sources.read(args.reference, args.data, args.size).images
        real = cached(args.data / "features", judge, images, args.reference).pooled
    settings = EvaluationSettings(
        num_images=args.num_images,
        first_seed=args.seed,
        guidance_scale=args.scale,
        guidance_power=args.power,
        num_inference_steps=args.steps,
        reference=args.reference,
        validation_images=args.validation_images,
    )
    for folder in args.runs:
        evaluate_run(Run(folder), settings, real, judge, state, device, args.batch_size, args.at)


def report(args: argparse.Namespace) -> None:
    """Write report.md and convergence.png."""
    contenders = contenders_of([Run(folder) for folder in args.runs])
    if args.in_turns:
        contenders = timed_in_turns(contenders, args.in_turns)
    text = write_report(contenders, args.baseline, args.out)
    print(f"{text}\n{args.out / 'report.md'}, {args.out / 'convergence.png'}")


if __name__ == "__main__":
    build_parser().run(lambda args: {"evaluate": evaluate, "report": report}[args.command](args))
