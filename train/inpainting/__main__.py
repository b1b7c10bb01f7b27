"""Measure inpainting: held-out avatars x masks x methods -> a table, a grid to look at, one line of JSON.

    python -m train.inpainting --model PATH --num-images 200 --out runs/inpainting
    python -m train.inpainting --model PATH --num-images 48 --out runs/search --methods blend mdt:handover=500,repeats=2

The pictures are the first of the validation split, the real ones that they are held against are the test split: no
training saw either. Every method has the same number of model calls (a call is one guided evaluation of a batch, both
branches): where a method repeats steps, its trajectory has fewer of them. By default new pixels are pasted as in use,
feathered inside the grown mask; `--grow 0 --feather 0` pastes them hard at the border of the mask. Figures:

    KID, error   of the results against the real pictures, by the offline judge, with its standard error
    excess       that KID less the one of the untouched pictures, which is the floor of real against real
    distance     root mean square feature distance to the original inside the hole; 1: as far as another picture
    seam, error  squared jump across the grown mask's border, where new pixels end, over that of the originals at the
                 same place; 1 is ideal
    inner seam   the same across the border of the mask as it was painted
    outside      largest difference to the original outside the grown mask, in grey levels: must be 0

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
from PIL import Image, ImageDraw, ImageFont

from mdt_core.acceleration.machine import choose_device
from mdt_core.inpainting import DEFAULT_SCALE, METHODS, resampling_order
from train.command import Parser
from train.evaluate import __main__ as evaluate
from train.evaluate import features, metrics, samples
from train.inpainting import masks as holes
from train.inpainting.painters import WITHOUT_MODEL, Painting, paint, parse_method, steps_within

DEFAULT = "mdt"  # the method that is held to the bar:
BAR_SEAM, BAR_EXCESS = (0.85, 1.15), 0.5  # its seam, and its excess over that of "blend"
GAP, SIDE = 4, 128  # of the grid, px; a smaller picture is enlarged by a whole factor

# ---- results -> figures and grid

Results = dict[tuple[str, str], np.ndarray]  # method, kind of mask -> (N, S, S, 3) uint8


def judge(args: argparse.Namespace, originals: np.ndarray, masks: dict[str, np.ndarray], results: Results) -> list:
    """Rows of figures: the untouched pictures, each method on each kind of mask, and each method's mean over them."""
    eye, kept = features.EffLite0(args.device), args.data / "features"
    grown = {kind: holes.grown(masks[kind], args.grow) for kind in masks}
    reference = features.cached(kept, eye, samples.read("avatars:test", args.data).images, "test").pooled
    real = features.cached(kept, eye, originals, "originals")
    floor = metrics.kernel_distance(reference, real.pooled)

    def figures(images: np.ndarray, kind: str, name: str) -> dict[str, float]:
        seen = features.cached(args.out / "features", eye, images, name)
        kid, seam = metrics.kernel_distance(reference, seen.pooled), holes.seam_ratio(images, originals, grown[kind])
        return {
            f"KID-{eye.name}": kid.value,
            "error": kid.error,
            "excess": kid.value - floor.value,
            "distance": holes.hole_distance(seen, real, masks[kind]),
            "seam": seam.value,
            "seam error": seam.error,
            "inner seam": holes.seam_ratio(images, originals, masks[kind]).value,
            "outside": float(holes.outside_difference(images, originals, grown[kind])),
        }

    rows = [{"images": "real"} | figures(originals, next(iter(masks)), "originals")]
    for method in dict.fromkeys(method for method, _ in results):
        own = [figures(results[method, kind], kind, f"{method}, {kind}") for kind in masks]
        rows += [{"images": f"{method}, {kind}"} | row for kind, row in zip(masks, own, strict=True)]
        mean = {word: float(np.mean([row[word] for row in own])) for word in own[0]}
        rows.append({"images": f"{method}, mean"} | mean | {"outside": max(row["outside"] for row in own)})
    return rows


def hold_to_bar(rows: list[dict]) -> dict[str, float | bool]:
    """Whether the default method's mean seam and excess meet the bar; empty without it and "blend"."""
    mean = {row["images"].removesuffix(", mean"): row for row in rows if row["images"].endswith(", mean")}
    if not {DEFAULT, "blend"} <= mean.keys():
        return {}
    seam, share = mean[DEFAULT]["seam"], mean[DEFAULT]["excess"] / mean["blend"]["excess"]
    met = BAR_SEAM[0] <= seam <= BAR_SEAM[1] and share <= BAR_EXCESS and mean[DEFAULT]["outside"] == 0
    return {"method": DEFAULT, "seam": seam, "share of blend's excess": share, "met": met}


def draw_grid(originals: np.ndarray, masks: dict[str, np.ndarray], results: Results, per_kind: int = 4) -> Image.Image:
    """Some pictures of each kind of mask, one a row: original, masked, and each method."""
    methods = list(dict.fromkeys(method for method, _ in results))
    shown = np.linspace(0, len(originals) - 1, per_kind).astype(int)
    side, top = originals.shape[1] * max(1, SIDE // originals.shape[1]), 24
    columns, rows = 2 + len(methods), len(masks) * len(shown)
    grid = Image.new("RGB", (GAP + columns * (side + GAP), top + rows * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(size=11)
    for column, title in enumerate(["original", "masked", *methods]):
        pen.text((GAP + column * (side + GAP), 6), title[: side // 5], fill="black", font=font)
    for row, (kind, i) in enumerate((kind, i) for kind in masks for i in shown):
        masked = np.where(masks[kind][i, ..., None], np.uint8(127), originals[i])
        for column, image in enumerate([originals[i], masked, *(results[method, kind][i] for method in methods)]):
            image = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            grid.paste(image, (GAP + column * (side + GAP), top + row * (side + GAP)))
    return grid


# ---- the command


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.inpainting", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a pipeline: a folder or a hub id")
    parser.add_argument("--out", type=Path, default=Path("runs/inpainting"), help="for results, grid.png, report.json")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--calls", type=int, default=100, help="model calls of every method (default 100)")
    parser.add_argument("--methods", nargs="+", default=[*WITHOUT_MODEL, *METHODS], help=parse_method.__doc__)
    parser.add_argument("--masks", nargs="+", choices=holes.MASKS, default=holes.MASKS)
    parser.add_argument("--scale", type=float, default=DEFAULT_SCALE, help="guidance scale (default %(default)s)")
    parser.add_argument("--power", type=float, default=4.0, help="guidance power")
    parser.add_argument("--grow", type=int, default=8, help="pixels by which the mask is dilated (default 8)")
    parser.add_argument("--feather", type=int, default=8, help="pixels over which the new part fades in (default 8)")
    parser.add_argument("--batch-size", type=int, default=25, help="changes the speed, not the pictures")
    parser.add_argument("--device", help="default: the best there is")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the built sets (default data)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Paint what is not painted yet, draw the grid, judge, report."""
    methods = {name: parse_method(name) for name in args.methods}
    args.device = choose_device(args.device)
    pipe = evaluate.load_pipeline(args.model, args.device)
    originals = samples.read("avatars:validation", args.data)
    if not holes.STROKE_MASKS <= args.num_images <= len(originals.images):
        raise ValueError(f"--num-images must be {holes.STROKE_MASKS} to {len(originals.images)}: {args.num_images}")
    first = slice(args.num_images)
    originals = replace(originals, images=np.ascontiguousarray(originals.images[first]), labels=originals.labels[first])
    size = originals.images.shape[1]
    if size != pipe.image_size:
        raise ValueError(f"the pictures in {args.data} have {size} px, but the model draws {pipe.image_size} px")

    masks = {kind: holes.draw_masks(kind, args.num_images, size) for kind in args.masks}
    weights, pictures = samples.weights_fingerprint(pipe), features.images_fingerprint(originals.images)
    results, calls = {}, {}
    for name, method in methods.items():
        steps = 0 if name in WITHOUT_MODEL else steps_within(args.calls, method)
        calls[name] = len(resampling_order(0, steps, method)) if steps else 0
        for kind in masks:
            settings = steps, args.scale, args.power, args.grow, args.feather
            painting = Painting(weights, pictures, kind, method, *settings)
            path = args.out / f"{name}-{kind}.npz".replace(" ", "-")
            if not samples.is_finished(path, painting):
                begin = time.time()
                painted = paint(pipe, painting, originals, masks[kind], args.batch_size)
                samples.write(path, replace(originals, images=painted), painting)
                print(f"{path}: {steps} steps, {calls[name]} calls, {time.time() - begin:.0f} s", flush=True)
            results[name, kind] = samples.read(str(path), args.data).images

    draw_grid(originals.images, masks, results).save(args.out / "grid.png")
    rows = judge(args, originals.images, masks, results)
    print(evaluate.table(rows))
    print(args.out / "grid.png")
    words = ("num_images", "scale", "power", "grow", "feather")
    settings = {"weights": weights} | {word: getattr(args, word) for word in words}
    report = json.dumps(settings | {"calls": calls, "bar": hold_to_bar(rows), "figures": rows})
    (args.out / "report.json").write_text(report + "\n")
    print(report)


def main(argv: list[str] | None = None) -> None:
    build_parser().run(run, argv)


if __name__ == "__main__":
    main()
