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
    seam, error  squared jump across the grown mask's border over that of the originals at the same place; 1 is ideal
    outside      largest difference to the original outside the grown mask, in grey levels: must be 0

Rows without a model are there for comparison: the mean colour, Telea's fill (2004, An image inpainting technique based
on the fast marching method), and the original through the autoencoder alone, which bounds any method in latents.
The same command resumes: the results of each method and mask are kept in the folder.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mdt_core import autoencoder
from mdt_core.canvas import Canvas, fit_canvas
from mdt_core.guidance import guide
from mdt_core.inpainting import METHODS, Method, find_method, inpaint, resampling_order, starting_latents
from mdt_core.samplers import SAMPLERS, generators
from train import evaluate, features, holes, metrics, samples
from train.command import Parser

WITHOUT_MODEL = ("mean colour", "telea", "autoencoder")
DEFAULT = "mdt"  # the method that is held to the bar:
BAR_SEAM, BAR_EXCESS = (0.85, 1.15), 0.5  # its seam, and its excess over that of "blend"
GAP, ZOOM = 4, 2  # of the grid, px


def _window(text: str) -> tuple[float, float]:
    first, last = map(float, text.split("-"))
    return first, last


CONVERT = {"sampler": str, "repeats": int, "jump": int, "window": _window, "handover": int}  # fields of a Method


@dataclass(frozen=True)
class Painting:
    """All that decides the results of one method on one kind of mask; kept beside them."""

    weights: str  # fingerprint of the pipeline's weights
    pictures: str  # digest of the originals
    mask: str  # one of holes.MASKS
    method: Method | str  # or one of WITHOUT_MODEL
    num_inference_steps: int  # 0 without a model
    guidance_scale: float
    guidance_power: float
    grow: int
    feather: int


# ---- methods


def parse_method(text: str) -> Method | str:
    """A method's name, one without a model, or a variant: `mdt:handover=500,repeats=2,window=0.5-0.9,sampler=ddim`."""
    if text in WITHOUT_MODEL:
        return text
    name, _, changes = text.partition(":")
    method = find_method(name)
    for change in filter(None, changes.split(",")):
        word, _, value = change.partition("=")
        if word not in CONVERT:
            raise ValueError(f"{text}: a method has {', '.join(CONVERT)}, but no {word}")
        try:
            method = replace(method, **{word: CONVERT[word](value)})
        except ValueError:
            raise ValueError(f"{text}: {value!r} is no {word}") from None
    return method


def steps_within(calls: int, method: Method) -> int:
    """The most steps of a trajectory that, with the method's repeats, take no more than `calls` model calls."""
    most = min(calls, SAMPLERS[method.sampler].max_steps)
    return max((n for n in range(1, most + 1) if len(resampling_order(0, n, method)) <= calls), default=1)


# ---- pictures and masks -> results


@torch.no_grad()
def paint(pipe, painting: Painting, originals: samples.ImageSet, masks: np.ndarray, batch_size: int) -> np.ndarray:
    """Repaint each picture under its mask, (N, S, S, 3) uint8; picture i has the seed i."""
    results, cell = np.empty_like(originals.images), autoencoder.downscale(pipe.vae)
    for batch in holes.batches(masks, batch_size):
        canvases = [
            fit_canvas(
                picture, masks[batch.start], pipe.image_size, cell=cell, grow=painting.grow, feather=painting.feather
            )
            for picture in originals.images[batch]
        ]
        if isinstance(painting.method, str):
            results[batch] = paint_without_model(pipe, painting.method, canvases)
        else:
            seeds = range(batch.start, batch.stop)
            results[batch] = paint_with_model(pipe, painting, canvases, originals.labels[batch], seeds)
    return results


def paint_without_model(pipe, name: str, canvases: list[Canvas]) -> np.ndarray:
    """Pictures that share one mask, repainted by one of WITHOUT_MODEL: (N, S, S, 3) uint8."""
    if name == "autoencoder":
        return paste(pipe, canvases, autoencoder.encode(pipe.vae, stack_pixels(pipe, canvases)))
    pictures, hole = np.stack([canvas.picture for canvas in canvases]), canvases[0].hole().numpy()
    if name == "mean colour":
        mean = pictures[:, ~hole].mean(1).round().astype(np.uint8)  # (N, 3)
        return np.where(hole[..., None], mean[:, None, None], pictures)
    import cv2

    return np.stack([cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA) for picture in pictures])


def paint_with_model(pipe, painting: Painting, canvases: list[Canvas], labels: np.ndarray, seeds: range) -> np.ndarray:
    """Pictures that share one mask, repainted in one batch, each as `pipe.inpaint` does it alone.

    Args:
        pipe: an `mdt_core.MDTPipeline`.
        painting: the settings.
        canvases: one per picture.
        labels: (N,), their classes.
        seeds: one per picture.

    Returns:
        (N, S, S, 3) uint8.
    """
    rngs, hardness = generators(seeds), canvases[0].hardness(*pipe.latent_shape[1:])
    known, content = starting_latents(
        "fill",
        lambda pixels: autoencoder.encode(pipe.vae, pixels),
        stack_pixels(pipe, canvases),
        canvases[0].hole().to(pipe.device),
        hardness,
        rngs,
    )
    denoise = guide(
        pipe.transformer,
        torch.as_tensor(labels, device=pipe.device),
        null_class=pipe.num_classes,
        guidance_scale=painting.guidance_scale,
        guidance_power=painting.guidance_power,
        guidance_channels=pipe.config.guidance_channels,
    )
    *_, last = inpaint(
        denoise,
        known,
        hardness,
        generators=rngs,
        method=painting.method,
        num_inference_steps=painting.num_inference_steps,
        patch_size=pipe.transformer.config.patch_size,
        content=content,
    )
    return paste(pipe, canvases, last.x_t)


def stack_pixels(pipe, canvases: list[Canvas]) -> Tensor:
    """What the model sees of the pictures, (N, 3, S, S) in [-1, 1]."""
    return torch.cat([canvas.pixels() for canvas in canvases]).to(pipe.device)


def paste(pipe, canvases: list[Canvas], latents: Tensor) -> np.ndarray:
    """Latents (N, C, h, w) -> the pictures with their holes filled from them, (N, S, S, 3) uint8."""
    decoded = [autoencoder.decode(pipe.vae, z)[0] for z in latents.split(1)]  # one at a time, as the pipeline does
    return np.stack([canvas.paste(pixels) for canvas, pixels in zip(canvases, decoded, strict=True)])


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
    side, top = ZOOM * originals.shape[1], 24
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
    parser.add_argument("--scale", type=float, default=3.8, help="guidance scale")
    parser.add_argument("--power", type=float, default=4.0, help="guidance power")
    parser.add_argument("--grow", type=int, default=8, help="pixels by which the mask is dilated (default 8)")
    parser.add_argument("--feather", type=int, default=4, help="pixels over which the new part fades in (default 4)")
    parser.add_argument("--batch-size", type=int, default=25, help="changes the speed, not the pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the built sets (default data)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Paint what is not painted yet, draw the grid, judge, report."""
    methods = {name: parse_method(name) for name in args.methods}
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
    weights, pictures = samples.fingerprint(pipe), features.digest(originals.images)
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
