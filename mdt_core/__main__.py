"""The command line: python -m mdt_core generate | inpaint | convert | export | info. Installed, `mdt` is the same.

A wrong call ends with one line on stderr that says what was wrong and what would be right, and exit status 2.
Every command imports what it needs when it runs: help and wrong calls do not wait for torch.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdt_core.command.files import check_image_path, check_out_folder, open_image
from mdt_core.command.parser import Parser, add_device_options, chosen_settings, is_reported
from mdt_core.presets import DEFAULT_VAE

if TYPE_CHECKING:
    from mdt_core.pipeline.labels import ClassLabel, ClassMix
    from mdt_core.pipeline.outputs import PipelineStep
    from mdt_core.pipeline.pipeline import MDTPipeline

SHIPPED = Path(__file__).parents[1] / "assets" / "models" / "avatars"  # in a clone; an installed package has none


# --- arguments ----------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """All commands; each sets `run`, the function that does its work."""
    program = "mdt" if Path(sys.argv[0]).stem == "mdt" else "python -m mdt_core"
    parser = Parser(prog=program, description="Images from masked diffusion transformers.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="generate | inpaint | convert | export | info"
    )
    add_generate(commands.add_parser("generate", help="one image of one class"))
    add_inpaint(commands.add_parser("inpaint", help="repaint a part of a picture of any size"))
    add_convert(commands.add_parser("convert", help="published weights -> a diffusers pipeline folder"))
    add_export(commands.add_parser("export", help="a folder that diffusers opens without this package; to the hub"))
    info = commands.add_parser("info", help="what a model is")
    _add_model(info)
    info.set_defaults(run=run_info)
    return parser


def add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `generate`."""
    _add_model(parser)
    _add_sampling(parser, *(f"the model's own, else {value}" for value in ("25", "dpm++", "999", "3.8", "4.0")))
    parser.add_argument(
        "--preset", choices=("fast", "balanced", "slow"), default="balanced", help="the model's own (%(default)s)"
    )
    parser.set_defaults(run=run_generate)


def add_inpaint(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inpaint`."""
    _add_model(parser)
    parser.add_argument("--image", type=Path, required=True, help="the picture")
    parser.add_argument("--mask", type=Path, required=True, help="a picture of the same size, white where to repaint")
    _add_sampling(parser, *["the method's"] * 3, "2.0", "4.0")
    parser.add_argument("--method", default="mdt", help="mdt, repaint, blend (%(default)s)")
    parser.add_argument("--strength", type=float, default=1.0, help="below 1: start from the picture (%(default)s)")
    parser.add_argument("--area", default="whole", help="whole, crop, masked: what the model sees (%(default)s)")
    parser.add_argument(
        "--masked-content",
        default="auto",
        help="auto, fill, original, noise: what the hole starts from (%(default)s)",
    )
    parser.add_argument("--grow", type=int, default=8, metavar="PX", help="widen the mask (%(default)s)")
    parser.add_argument("--feather", type=int, default=8, metavar="PX", help="fade in over these (%(default)s)")
    parser.set_defaults(run=run_inpaint)


def add_convert(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convert`."""
    parser.add_argument("checkpoint", help="a published .pt or .safetensors file, a folder with one, or a hub id")
    _add_out_folder(parser)
    parser.add_argument("--vae", default=DEFAULT_VAE, help="autoencoder: a folder or hub id (%(default)s)")
    parser.add_argument("--decoder-layers", type=int, help="v1's number of decoder blocks (2)")
    parser.set_defaults(run=run_convert)


def add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument("model", metavar="PATH_OR_ID", help="folder, checkpoint, file or hub id")
    _add_out_folder(parser)
    parser.add_argument(
        "--push", metavar="REPO_ID", help="also upload it to this repository of the hub, such as me/cats"
    )
    parser.set_defaults(run=run_export)


def _add_model(parser: argparse.ArgumentParser) -> None:
    default = {"default": str(SHIPPED)} if SHIPPED.is_dir() else {"required": True}
    note = " (the avatars that come with this clone)" if SHIPPED.is_dir() else ""
    parser.add_argument("--model", metavar="PATH_OR_ID", help=f"folder, checkpoint, file or hub id{note}", **default)


def _add_out_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out_folder", type=Path, help="where to write; must be empty or not there yet")


def _add_sampling(
    parser: argparse.ArgumentParser, steps: str, sampler: str, first: str, scale: str, power: str
) -> None:
    """What `generate` and `inpaint` share, and what stands in the place of a setting that is left out."""
    note = "or a mix of classes, NAME:0.6,NAME:0.4; leave out for an unconditional image"
    parser.add_argument("--class", dest="label", metavar="NAME_OR_INDEX", help=note)
    parser.add_argument("--out", type=Path, required=True, help="the image file to write")
    parser.add_argument("--seed", type=int, default=0, help="0 or more (%(default)s)")
    parser.add_argument("--steps", type=int, help=f"({steps})")
    parser.add_argument("--sampler", help=f"dpm++, ddim, ddpm ({sampler})")
    parser.add_argument("--scale", type=float, help=f"guidance scale ({scale})")
    parser.add_argument("--power", type=float, help=f"guidance power ({power})")
    parser.add_argument("--guidance", metavar="KIND", help="class, mask, both: what the weak branch lacks (class)")
    parser.add_argument(
        "--interval", nargs=2, type=int, metavar=("LOW", "HIGH"), help="timesteps that are guided (0 999)"
    )
    parser.add_argument(
        "--first-timestep", type=int, help=f"where the steps begin, 1 to 999, which is pure noise ({first})"
    )
    add_device_options(parser)


# --- commands -----------------------------------------------------------------------------------------------


def run_generate(args: argparse.Namespace) -> None:
    """One image of one class into a file."""
    check_image_path(args.out)
    pipe = _open_pipeline(args)
    label, preset = _class_label(pipe, args), pipe.sampling_presets[args.preset].arguments
    steps = pipe.stream([label], **preset | chosen_settings(args), seeds=[args.seed])
    _write_last_image(pipe, args, label, steps, {"kind": "generate"})


def run_inpaint(args: argparse.Namespace) -> None:
    """A picture with its masked part made anew into a file."""
    check_image_path(args.out)
    image, mask = open_image(args.image), open_image(args.mask)
    pipe = _open_pipeline(args)
    settings = {name: getattr(args, name) for name in ("method", "strength", "area", "masked_content")}
    settings |= {"grow": args.grow, "feather": args.feather}
    label = _class_label(pipe, args)
    steps = pipe.stream_inpaint(image, mask, [label], **settings, **chosen_settings(args), seeds=[args.seed])
    _write_last_image(pipe, args, label, steps, {"kind": "inpaint"} | settings)


def run_convert(args: argparse.Namespace) -> None:
    """A published file and an autoencoder into a pipeline folder."""
    from tqdm import tqdm

    from mdt_core.command.info import class_and_size
    from mdt_core.pipeline.pipeline import MDTPipeline
    from mdt_core.runs import write_whole
    from mdt_core.weights.hub import resolve

    out = args.out_folder
    check_out_folder(out)
    checkpoint = resolve(args.checkpoint)
    if checkpoint.is_dir():
        raise ValueError(f"{checkpoint} is a pipeline folder already: nothing to convert")
    pipe = MDTPipeline.from_pretrained(checkpoint, vae=args.vae, decoder_layers=args.decoder_layers)
    write = partial(write_whole, out, pipe.save_pretrained)
    stages = {"fitting previews": pipe.fit_preview, f"writing {out}": write}
    with tqdm(stages.items(), unit="stage") as bar:
        for name, run in bar:
            bar.set_description(name)
            run()
    print(f"{out}: {class_and_size(pipe.transformer)}, {pipe.num_classes} classes, autoencoder {args.vae}")


def run_export(args: argparse.Namespace) -> None:
    """A model and its code into a folder, and from there to the hub."""
    from mdt_core.pipeline.open import open_pipeline
    from mdt_core.runs import write_whole
    from mdt_core.weights.export import check_push, export_pipeline, push
    from mdt_core.weights.hub import expand

    out = args.out_folder
    check_out_folder(out)
    if args.push:
        check_push(args.push)
    card = expand(args.model) / "README.md"
    pipe = open_pipeline(args.model)
    text = card.read_text("utf-8") if card.is_file() else None
    write_whole(out, lambda partial: export_pipeline(pipe, partial, args.push or str(out), text))
    print(f'{out}: open it with DiffusionPipeline.from_pretrained("{out}", trust_remote_code=True)')
    if args.push:
        print(push(out, args.push))


def run_info(args: argparse.Namespace) -> None:
    """A table of what the model is, and of what can run it."""
    from mdt_core.command.info import model_info

    for name, value in model_info(args.model).items():
        print(f"{name:<10}{value}")


# --- what they share ----------------------------------------------------------------------------------------


def _open_pipeline(args: argparse.Namespace) -> "MDTPipeline":
    """The model on the device, in the number format asked for."""
    from mdt_core.acceleration.machine import choose_device, use_own_cores
    from mdt_core.pipeline.open import open_pipeline

    use_own_cores()
    device = choose_device(args.device)
    return open_pipeline(args.model).to(device).optimize(dtype=args.dtype, compile=args.compile)


def _class_label(pipe: "MDTPipeline", args: argparse.Namespace) -> "ClassLabel | ClassMix":
    """What --class names."""
    from mdt_core.pipeline.labels import parse_label

    return None if args.label is None else parse_label(args.label, pipe.id2label)


def _write_last_image(
    pipe: "MDTPipeline",
    args: argparse.Namespace,
    label: "ClassLabel | ClassMix",
    steps: Iterator["PipelineStep"],
    made_by: dict[str, Any],
) -> None:
    """Follow a stream with a progress bar and keep its picture, with its recipe, which begins with `made_by`."""
    from tqdm import tqdm

    from mdt_core.pipeline.labels import label_text
    from mdt_core.pipeline.recipe import class_entry, save_picture

    with tqdm(unit="step") as bar:
        for step in steps:
            bar.total = step.total
            bar.update()
    recipe = made_by | {"model": Path(args.model).name, "seed": args.seed} | step.settings.arguments
    save_picture(step.images[0], args.out, recipe | class_entry(label, pipe.id2label))
    drawn = f"{label_text(label, pipe.id2label)}, seed {args.seed}"
    print(f"{args.out}: {drawn}; {step.evaluations} model evaluations, {step.skipped} skipped")


# --- running ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a wrong call or a bad file exits with status 2 and one line."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    _silence_libraries()
    try:
        args.run(args)
    except KeyboardInterrupt:
        parser.exit(130, "\n")
    except Exception as error:
        if not is_reported(error):
            raise
        message = " ".join(str(error).split())
        parser.exit(2, f"{parser.prog} {args.command}: {message}\n")


def _silence_libraries() -> None:
    """What is said here is for the person who typed the command."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main(sys.argv[1:])
