"""Does a model copy? Samples beside their nearest training images, and how often one is nearer than it should be.

    python -m train.neighbours --samples samples.npz --training avatars-128:train --out neighbours.png
    python -m train.neighbours --samples samples.npz --training FOLDER --held-out OTHER_FOLDER --out neighbours.png

A set can hold look-alikes, so a small distance says little by itself. What a distance should be is what held-out images
of the same kind have, which no training saw (the comparison of Meehan et al. 2020, arXiv:2004.05675):

    copy rate               the share of samples that are nearer to their nearest training image than all but 5% of
                            the held-out images are to theirs: 100% for a copier
    nearer than held-out    the chance that a sample is nearer to the training set than a held-out image is, where a
                            tie counts half: 100% for a copier

Both are taken in two spaces: pixels, and the features of the judge. Bad samples are far from everything and lower both,
so read them beside a figure of quality. Beside each stands the value of a model that draws anew: 5% and 50%. It is more
where held-out images were dropped because the training set holds the same: what is drawn anew repeats some, too.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import trange

from mdt_core.acceleration.machine import choose_device
from mdt_core.command.parser import number
from mdt_core.pipeline.labelled_grid import LabelledGrid
from train.command import Parser
from train.evaluate import features, sources
from train.evaluate.judging import JUDGES, float64_device, open_judge

ROWS = 2048  # images that are in memory as float64 at once, of either set
SHARE = 0.05  # of the held-out images: those that count as too near
SIDE = 72  # px of an image in the picture


class Nearest(NamedTuple):
    """The nearest k points of each of N queries, nearest first."""

    distances: Tensor  # (N, k), root mean square over the numbers of an image
    indices: Tensor  # (N, k)


class Space(NamedTuple):
    """Samples, training images and, perhaps, held-out ones as rows of numbers: arrays, or what slices like them."""

    name: str
    samples: np.ndarray
    training: np.ndarray
    held_out: np.ndarray | None = None
    dropped: int = 0  # held-out images that are not there because the training images hold the same


def nearest(queries: np.ndarray, points: np.ndarray, k: int = 1, device: str = "cpu", name: str = "") -> Nearest:
    """Search all of `points`, ROWS of them and ROWS queries at a time.

    Args:
        queries: (N, ...).
        points: (M, ...) of the same kind, M >= k.
        device: where to compute; the CPU does it for a device without float64.

    Raises:
        ValueError: queries and points are of different sizes, or there are fewer than k points.
    """
    if queries.shape[1:] != points.shape[1:]:
        raise ValueError(f"{queries.shape[1:]} cannot be compared with {points.shape[1:]}: images need one size")
    if len(points) < k:
        raise ValueError(f"{k} neighbours are asked for, of {len(points)} training images")

    device = float64_device(device)

    def rows(array: np.ndarray, start: int) -> Tensor:
        return torch.as_tensor(array[start : start + ROWS], device=device).flatten(1).double()

    starts = range(0, len(queries), ROWS)
    best = [Nearest(torch.empty(0), torch.empty(0))] * len(starts)
    for offset in trange(0, len(points), ROWS, desc=f"neighbours in {name}", disable=not name):
        y = rows(points, offset)
        for i, start in enumerate(starts):
            x = rows(queries, start)
            squares = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
            distances = (squares.clamp(min=0) / x.shape[1]).sqrt()
            indices = (torch.arange(len(y), device=device) + offset).expand(len(x), -1)
            if offset:
                distances = torch.cat([best[i].distances, distances], 1)
                indices = torch.cat([best[i].indices, indices], 1)
            distances, order = distances.topk(min(k, distances.shape[1]), largest=False)
            best[i] = Nearest(distances, indices.gather(1, order))
    return Nearest(*(torch.cat(parts).cpu() for parts in zip(*best, strict=True)))


def copy_rate(sampled: Tensor, held_out: Tensor) -> float:
    """Share of samples nearer to the training set than the nearest 5% of held-out images; distances (N,), (M,)."""
    return float((sampled < held_out.quantile(SHARE)).double().mean())


def nearer_than_held_out(sampled: Tensor, held_out: Tensor) -> float:
    """P(distance of a sample < that of a held-out image) + P(equal) / 2, as the Mann-Whitney test counts."""
    order, sampled = held_out.sort().values, sampled.contiguous()
    nearer, at_most = (torch.searchsorted(order, sampled, right=tied).double().mean() for tied in (False, True))
    return float(1 - (nearer + at_most) / (2 * len(held_out)))


def describe(space: Space, neighbours: Nearest, device: str = "cpu") -> dict[str, float]:
    """The figures of one space, from the samples' nearest training images."""
    sampled = neighbours.distances[:, 0]
    report = {"median distance": float(sampled.median())}
    if space.held_out is None:
        return report
    held_out = nearest(space.held_out, space.training, 1, device, f"{space.name}, held-out").distances[:, 0]
    report["median distance, held-out"] = float(held_out.median())
    same = space.dropped / (space.dropped + len(held_out))  # chance that a new drawing is in the training set already
    report["copy rate"] = copy_rate(sampled, held_out)
    report["copy rate, drawing anew"] = same + (1 - same) * SHARE
    report["nearer than held-out"] = nearer_than_held_out(sampled, held_out)
    report["nearer than held-out, drawing anew"] = same + (1 - same) / 2
    return report


def draw_neighbours(images: np.ndarray, training: np.ndarray, near: dict[str, Nearest], rows: int) -> LabelledGrid:
    """One row a sample: itself, then its nearest training images in each space.

    Args:
        images: samples, uint8 (N, H, W, 3).
        training: the training images.
        near: space -> its neighbours; the last space decides which samples are drawn: from the nearest to the
            farthest, at equal shares.
        rows: how many samples are drawn.
    """
    order = list(near.values())[-1].distances[:, 0].argsort()
    drawn = order[torch.linspace(0, len(order) - 1, min(rows, len(order))).round().long()].tolist()
    cells, labels = [[images[sample]] for sample in drawn], ["sample"]
    for space, neighbours in near.items():
        for row, sample in zip(cells, drawn, strict=True):
            row += [training[index] for index in neighbours.indices[sample].tolist()]
        labels += [f"nearest in {space}"] + [None] * (neighbours.indices.shape[1] - 1)
    cells = [[Image.fromarray(picture) for picture in row] for row in cells]
    return LabelledGrid(cells, (SIDE, SIDE), column_labels=labels, resample=Image.Resampling.BICUBIC)


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.neighbours", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", required=True, metavar="SOURCE", help=f"the samples: {sources.HELP}")
    parser.add_argument("--training", required=True, metavar="SOURCE", help="the training images, likewise")
    parser.add_argument("--held-out", metavar="SOURCE", help="default SET:validation; for others none, so no rates")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture")
    parser.add_argument("--rows", type=number(int, 1), default=12, help="samples in the picture (default 12)")
    parser.add_argument("--neighbours", type=number(int, 1), default=5, help="training images beside each (default 5)")
    parser.add_argument("--judge", choices=list(JUDGES), default="efflite0", help="whose features")
    sources.add_source_options(parser.add_argument)
    return parser


def spaces_of(args: argparse.Namespace) -> list[Space]:
    """What the command line names, in pixels and as the judge sees it."""
    set_name, _, split = args.training.partition(":")
    args.held_out = args.held_out or (f"{set_name}:validation" if split == "train" else None)
    names = [args.samples, args.training, args.held_out]
    sets = [name and sources.read(name, args.data, args.size) for name in names]
    judge, cache = open_judge(args.judge, args.device), args.data / "features"
    pixels = [each and each.images for each in sets]
    named = zip(names, sets, strict=True)
    pooled = [each and features.cached(cache, judge, each.images, name).pooled for name, each in named]
    dropped = sets[2].dropped if sets[2] else 0
    return [Space("pixels", *pixels, dropped), Space(judge.name, *pooled, dropped)]


def run(args: argparse.Namespace) -> None:
    """Search, draw, report."""
    args.device = choose_device(args.device)
    spaces = spaces_of(args)
    neighbours = {s.name: nearest(s.samples, s.training, args.neighbours, args.device, s.name) for s in spaces}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_neighbours(spaces[0].samples, spaces[0].training, neighbours, args.rows).image.save(args.out)
    report = {"samples": args.samples, "training": args.training, "held-out": args.held_out}
    for space in spaces:
        report[space.name] = describe(space, neighbours[space.name], args.device)
    print(args.out)
    print(json.dumps(report))


def main(arguments: list[str] | None = None) -> None:
    build_parser().run(run, arguments)


if __name__ == "__main__":
    main()
