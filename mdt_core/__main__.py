"""The command line: python -m mdt_core generate | inpaint | convert | info.

A wrong call ends with one line on stderr that says what was wrong and what would be right, and exit status 2.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import diffusers
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from mdt_core.acceleration.machine import choose_device, devices, use_own_cores
from mdt_core.command_line import Parser, add_device_options
from mdt_core.inpainting import DEFAULT_SCALE, MASKED_CONTENTS, METHODS
from mdt_core.pipeline.canvas import AREAS
from mdt_core.pipeline.open import is_checkpoint, open_pipeline
from mdt_core.pipeline.pipeline import MDTPipeline, PipelineStep
from mdt_core.samplers import SAMPLERS
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import resolve
from mdt_core.weights.official import load_official

SHIPPED = Path(__file__).parents[1] / "assets" / "models" / "avatars"
PAINTING = ("method", "strength", "area", "masked_content", "grow", "feather")  # flags of `inpaint` alone


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mdt_core", description="Images from masked diffusion transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="generate | inpaint | convert | info")

    generate = commands.add_parser("generate", help="one image of one class")
    _add_model(generate)
    _add_sampling(generate, steps=25, sampler="dpm++", scale=3.8)
    generate.set_defaults(run=run_generate)

    inpaint = commands.add_parser("inpaint", help="repaint a part of a picture of any size")
    _add_model(inpaint)
    inpaint.add_argument("--image", type=Path, required=True, help="the picture")
    inpaint.add_argument("--mask", type=Path, required=True, help="a picture of the same size, white where to repaint")
    _add_sampling(inpaint, steps=None, sampler=None, scale=DEFAULT_SCALE)
    inpaint.add_argument("--method", default="mdt", help=f"{', '.join(METHODS)} (%(default)s)")
    inpaint.add_argument("--strength", type=float, default=1.0, help="below 1: start from the picture (%(default)s)")
    inpaint.add_argument("--area", default="whole", help=f"{', '.join(AREAS)}: what the model sees (%(default)s)")
    inpaint.add_argument(
        "--masked-content",
        default="auto",
        help=f"{', '.join(MASKED_CONTENTS)}: what the hole starts from (%(default)s)",
    )
    inpaint.add_argument("--grow", type=int, default=8, metavar="PX", help="widen the mask (%(default)s)")
    inpaint.add_argument("--feather", type=int, default=8, metavar="PX", help="fade in over these (%(default)s)")
    inpaint.set_defaults(run=run_inpaint)

    convert = commands.add_parser("convert", help="published weights -> a diffusers pipeline folder")
    convert.add_argument("checkpoint", help="a published .pt or .safetensors file, a folder with one, or a hub id")
    convert.add_argument("out_folder", type=Path, help="where to write; must be empty or not there yet")
    convert.add_argument("--vae", default=MDTPipeline.default_vae, help="autoencoder: a folder or hub id (%(default)s)")
    convert.add_argument("--decoder-layers", type=int, help="v1's number of decoder blocks (2)")
    convert.set_defaults(run=run_convert)

    info = commands.add_parser("info", help="what a model is")
    _add_model(info)
    info.set_defaults(run=run_info)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=str(SHIPPED), metavar="PATH_OR_ID", help="folder, checkpoint, file, hub id (avatars)"
    )


def _add_sampling(parser: argparse.ArgumentParser, steps: int | None, sampler: str | None, scale: float) -> None:
    parser.add_argument("--class", dest="label", metavar="NAME_OR_INDEX", help="leave out for an unconditional image")
    parser.add_argument("--out", type=Path, required=True, help="the image file to write")
    parser.add_argument("--seed", type=int, default=0, help="0 or more (%(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help=f"({steps or 'by method'})")
    parser.add_argument("--sampler", default=sampler, help=f"{', '.join(SAMPLERS)} ({sampler or 'by method'})")
    parser.add_argument("--scale", type=float, default=scale, help="guidance scale (%(default)s)")
    parser.add_argument("--power", type=float, default=4.0, help="guidance power (%(default)s)")
    add_device_options(parser)


def run_generate(args: argparse.Namespace) -> None:
    _check_image_path(args.out)
    pipe = _open_pipeline(args)
    _run(pipe, args, pipe.stream([args.label], **_sampling(args)))


def run_inpaint(args: argparse.Namespace) -> None:
    _check_image_path(args.out)
    image, mask = _open_image(args.image), _open_image(args.mask)
    pipe = _open_pipeline(args)
    chosen = {name: getattr(args, name) for name in PAINTING}
    _run(pipe, args, pipe.stream_inpaint(image, mask, [args.label], **chosen, **_sampling(args)))


def _open_pipeline(args: argparse.Namespace) -> MDTPipeline:
    """The model on the device, in the number format asked for."""
    use_own_cores()
    device = choose_device(args.device)
    return open_pipeline(args.model).to(device).optimize(dtype=args.dtype, compile=args.compile)


def _sampling(args: argparse.Namespace) -> dict:
    """The flags of `_add_sampling` in the pipeline's words."""
    return {
        "guidance_scale": args.scale,
        "guidance_power": args.power,
        "num_inference_steps": args.steps,
        "sampler": args.sampler,
        "seeds": [args.seed],
    }


def _run(pipe: MDTPipeline, args: argparse.Namespace, steps: Iterator[PipelineStep]) -> None:
    """Follow a stream with a progress bar and keep its picture."""
    with tqdm(unit="step") as bar:
        for step in steps:
            bar.total = step.total
            bar.update()
    step.images[0].save(args.out)
    name = "no class" if args.label is None else pipe.id2label[pipe.class_index(args.label)]
    print(f"{args.out}: {name}, seed {args.seed}; {step.evaluations} model evaluations, {step.skipped} skipped")


def run_convert(args: argparse.Namespace) -> None:
    out = args.out_folder
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not an empty folder: name another")
    checkpoint = resolve(args.checkpoint)
    if checkpoint.is_dir():
        raise ValueError(f"{checkpoint} is a pipeline folder already: nothing to convert")
    pipe = MDTPipeline.from_official(checkpoint, vae=args.vae, decoder_layers=args.decoder_layers)
    stages = {"fitting previews": pipe.fit_preview, f"writing {out}": partial(pipe.save_pretrained, out)}
    with tqdm(stages.items(), unit="stage") as bar:
        for name, run in bar:
            bar.set_description(name)
            run()
    print(f"{out}: {_described(pipe.transformer)}, {pipe.num_classes} classes, autoencoder {args.vae}")


def run_info(args: argparse.Namespace) -> None:
    path = args.model if is_checkpoint(args.model) else resolve(args.model)
    pipe = None if Path(path).is_file() else open_pipeline(path)
    transformer = pipe.transformer if pipe else load_official(path)  # weights alone need no autoencoder
    config = transformer.config
    shape = " x ".join(map(str, (config.in_channels, config.sample_size, config.sample_size)))
    rows = {
        "model": _described(transformer),
        "blocks": f"{config.depth}, {config.decoder_layers} of them decoder; "
        f"width {config.hidden_size}, {config.num_heads} heads",
        "latents": f"{shape}, patch {config.patch_size}: {transformer.num_tokens} tokens",
        "images": f"{pipe.image_size} px, {type(pipe.vae).__name__}" if pipe else "no autoencoder: convert adds one",
        "classes": f"{config.num_classes}{_first_names(pipe.id2label) if pipe else ''}",
        "samplers": ", ".join(SAMPLERS),
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}; devices {', '.join(devices())}",
    }
    for name, value in rows.items():
        print(f"{name:<10}{value}")


def _described(transformer: MDTTransformer) -> str:
    """Class and size, counted as the paper counts: with and without the side block, which only training needs."""
    count = {name: parameter.numel() for name, parameter in transformer.named_parameters()}
    side_block = sum(n for name, n in count.items() if name.startswith("sideblocks."))
    total = sum(count.values())
    without = f" ({total - side_block:,} without the side block)" if side_block else ""
    return f"{type(transformer).__name__}, {total:,} parameters{without}"


def _first_names(id2label: dict[int, str], most: int = 16) -> str:
    names = list(id2label.values())
    return ": " + ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _check_image_path(path: Path) -> None:
    """Say what is wrong with the output's path before the work, not after it."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out {path}: the name must end in an image format's suffix, such as .png")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: the folder {path.parent} does not exist")


def _open_image(path: Path) -> Image.Image:
    """A picture as it is meant to be seen, with the camera's rotation applied."""
    try:
        return ImageOps.exif_transpose(Image.open(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large, at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels can be opened") from error
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError(f"{path}: not a picture that can be opened, or a damaged one") from error


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a wrong call or a bad file exits with status 2 and one line."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()  # what is said here is for the person who typed the command
    diffusers.utils.logging.disable_progress_bar()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        parser.exit(2, f"{parser.prog} {args.command}: {message}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
