"""Measure inpainting: held-out pictures x masks x methods -> a table, a grid to look at, one line of JSON.

    python -m train.inpainting --model assets/models/avatars --images avatars-128:validation --out runs/inpainting

No training saw the pictures that are painted over, nor the real ones that the results are held against. Every method
has the same number of model calls (a call is one guided evaluation of a batch, both branches): where a method repeats
steps, its trajectory has fewer of them. By default new pixels are pasted as in use, feathered inside the grown mask;
`--grow 0 --feather 0` pastes them hard at the border of the mask. The figures: measure.py.

Rows without a model are there for comparison: the mean colour, Telea's fill (2004, An image inpainting technique based
on the fast marching method), and the original through the autoencoder alone, which bounds any method in latents.
The same command resumes: the results of each method and mask are kept in the folder.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mdt_core.acceleration.machine import choose_device
from mdt_core.command.parser import number
from mdt_core.guidance import KINDS
from mdt_core.inpainting import DEFAULT_SCALE, METHODS
from mdt_core.pipeline.pipeline import MDTPipeline
from train.command import Parser
from train.evaluate import samples, sources
from train.evaluate.features import cached, images_fingerprint
from train.evaluate.judging import open_judge, table
from train.inpainting.masks import MASKS, STROKE_MASKS, draw_masks
from train.inpainting.measure import Measure, draw_grid
from train.inpainting.painters import WITHOUT_MODEL, Painting, paint, parse_method, steps_within


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.inpainting", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a pipeline: a folder or a hub id")
    images = f"pictures to paint over, {sources.HELP} (default avatars:validation)"
    parser.add_argument("--images", metavar="SOURCE", default="avatars:validation", help=images)
    reference = "real pictures that the results are held against (default: SET:test of the same set)"
    parser.add_argument("--reference", metavar="SOURCE", help=reference)
    parser.add_argument("--out", type=Path, default=Path("runs/inpainting"), help="for results, grid.png, report.json")
    parser.add_argument("--num-images", type=number(int, 1), default=200)
    parser.add_argument("--calls", type=number(int, 1), default=100, help="model calls of every method (default 100)")
    parser.add_argument("--methods", nargs="+", default=[*WITHOUT_MODEL, *METHODS], help=parse_method.__doc__)
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=MASKS)
    parser.add_argument(
        "--scale", type=number(float, 0), default=DEFAULT_SCALE, help="guidance scale (default %(default)s)"
    )
    parser.add_argument("--power", type=number(float, 0), default=4.0, help="guidance power")
    parser.add_argument(
        "--guidance", choices=KINDS, default="class", help="what the weak branch lacks (default %(default)s)"
    )
    parser.add_argument(
        "--grow", type=number(int, 0), default=8, help="pixels by which the mask is dilated (default 8)"
    )
    parser.add_argument(
        "--feather", type=number(int, 0), default=8, help="pixels over which the new part fades in (default 8)"
    )
    parser.add_argument("--batch-size", type=number(int, 1), default=25, help="changes the speed, not the pictures")
    parser.add_argument("--device", help="default: the best there is")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the drawn sets (default data)")
    return parser


def reference_of(images: str) -> str:
    """The test split of the set whose other split is painted over; ValueError where `images` is no split of a set."""
    name, colon, _ = images.partition(":")
    if not colon:
        raise ValueError(f"--reference is missing, the real pictures that {images} is held against: {sources.HELP}")
    return f"{name}:test"


def first_images(args: argparse.Namespace, pipe: MDTPipeline) -> sources.ImageSet:
    """The pictures to paint over, with the model's labels: where it has none of that name, the null class."""
    pictures = sources.read(args.images, args.data, pipe.image_size)
    (total, height, width, _), count = pictures.images.shape, args.num_images
    if not STROKE_MASKS <= count <= total:
        raise ValueError(f"--num-images must be {STROKE_MASKS} to {total}: {count}")
    if not height == width == pipe.image_size:
        raise ValueError(f"{args.images} has {width}x{height} px, but the model draws {pipe.image_size} px")
    labels = [] if pictures.labels is None else pictures.labels[:count].tolist()
    names = [pictures.names[label] if label < len(pictures.names) else None for label in labels] or [None] * count
    labels = samples.labels_of(pipe, names).numpy()
    return replace(pictures, images=np.ascontiguousarray(pictures.images[:count]), labels=labels)


def run(args: argparse.Namespace) -> None:
    """Paint what is not painted yet, draw the grid, judge, report."""
    methods = {name: parse_method(name) for name in args.methods}
    args.reference = args.reference or reference_of(args.images)
    sources.locate(args.reference, args.data)  # before anything is painted
    args.device = choose_device(args.device)
    pipe, judge = samples.load_pipeline(args.model, args.device), open_judge("efflite0", args.device)
    originals = first_images(args, pipe)
    masks = {kind: draw_masks(kind, args.num_images, pipe.image_size) for kind in args.masks}

    weights, pictures = samples.weights_fingerprint(pipe), images_fingerprint(originals.images)
    results, calls = {}, {}
    for name, method in methods.items():
        steps = 0 if name in WITHOUT_MODEL else steps_within(args.calls, method)
        calls[name] = method.calls(steps) if steps else 0
        for kind in masks:
            settings = steps, args.scale, args.power, args.guidance, args.grow, args.feather
            painting = Painting(weights, pictures, kind, method, *settings)
            path = args.out / f"{name}-{kind}.npz".replace(" ", "-")
            if not samples.is_finished(path, painting):
                begin = time.time()
                painted = paint(pipe, painting, originals, masks[kind], args.batch_size)
                samples.write(path, replace(originals, images=painted), painting)
                print(f"{path}: {steps} steps, {calls[name]} calls, {time.time() - begin:.0f} s", flush=True)
            results[name, kind] = sources.read(str(path), args.data).images

    draw_grid(originals.images, masks, results).image.save(args.out / "grid.png")
    kept = args.data / "features"
    real = cached(kept, judge, sources.read(args.reference, args.data, pipe.image_size).images, args.reference).pooled
    of_originals = cached(kept, judge, originals.images, args.images)
    rows = Measure(judge, real, originals.images, of_originals, args.grow, args.out / "features").rows(results, masks)
    print(table(rows))
    print(args.out / "grid.png")
    words = ("num_images", "scale", "power", "guidance", "grow", "feather")
    settings = {"weights": weights} | {word: getattr(args, word) for word in words}
    report = json.dumps(settings | {"calls": calls, "figures": rows})
    (args.out / "report.json").write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    build_parser().run(run)
