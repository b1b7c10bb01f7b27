"""The avatar set: as many labelled drawings as are asked for, rendered from artists' styles.

A style of the `dicebear-styles` package is a drawing system made by an artist: eyes, mouths, hair, bodies
and colours that a seed puts together. The class is the style: an image can be rendered again, at any size,
from its class and its seed. Splits are ranges of seeds; a validation or test image that is also a training
image is dropped.

    python -m train.avatars data/avatars --size 64 --train 3000 --validation 50 --test 170
"""

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from tqdm import tqdm

from mdt_core.command.parser import number
from mdt_core.runs import write_whole
from train.command import Parser
from train.files import open_tensors

# Free styles (CC0 or CC BY 4.0) that are still themselves at 64 px; credits in assets/CREDITS.md.
STYLES = (
    "big-ears",
    "big-smile",
    "clay",
    "critters",
    "cutouts",
    "dylan",
    "fun-emoji",
    "landscape",
    "marbles",
    "moods",
    "open-peeps",
    "pixel-art",
    "planets",
    "sprouts",
    "thumbs",
    "voxel-bot",
)

# First seed of each split. A split takes consecutive seeds from here, the same ones for every style.
FIRST_SEED = {"train": 0, "validation": 100_000_000, "test": 200_000_000}
SUPERSAMPLE = 2  # rendered this many times larger, then downscaled


@dataclass(frozen=True)
class Split:
    """Images of one split. `images` (N, 3, H, W) uint8, `labels` (N,) int64, `seeds` (N,) int64; a name per label."""

    images: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray
    names: tuple[str, ...] = STYLES
    dropped: int = 0  # images of the range that were left out because they are training images, too


@cache
def _style(name: str):
    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")))


def render(style: str, seed: int, size: int) -> np.ndarray:
    """One avatar as (size, size, 3) uint8, on white."""
    from dicebear import Avatar
    from resvg_py import svg_to_bytes

    large = SUPERSAMPLE * size
    svg = Avatar(_style(style), {"seed": str(seed), "size": large}).to_string()
    png = svg_to_bytes(svg_string=svg, width=large, height=large, background="#ffffff", skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def _render_job(job: tuple[int, int], size: int) -> np.ndarray:
    label, seed = job
    return render(STYLES[label], seed, size)


def render_split(split: str, per_class: int, size: int, workers: int) -> Split:
    """Render `per_class` consecutive seeds of every style, classes interleaved."""
    first = FIRST_SEED[split]
    jobs = [(label, first + i) for i in range(per_class) for label in range(len(STYLES))]
    images = np.empty((len(jobs), 3, size, size), np.uint8)
    with ProcessPoolExecutor(workers) as pool:
        rendered: Iterator[np.ndarray] = pool.map(partial(_render_job, size=size), jobs, chunksize=64)
        for i, image in enumerate(tqdm(rendered, total=len(jobs), desc=f"render {split}", unit="image")):
            images[i] = image.transpose(2, 0, 1)
    labels, seeds = np.array(jobs, np.int64).T
    return Split(images, np.ascontiguousarray(labels), np.ascontiguousarray(seeds))


def digests(images: np.ndarray) -> list[bytes]:
    """A hash of each image's pixels."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def without(split: Split, seen: set[bytes]) -> Split:
    """Drop the images whose pixels are in `seen`."""
    new = np.array([digest not in seen for digest in digests(split.images)], bool)
    dropped = split.dropped + int((~new).sum())
    return Split(split.images[new], split.labels[new], split.seeds[new], split.names, dropped)


def build(folder: Path, size: int, counts: dict[str, int], workers: int) -> None:
    """Render the splits to `folder/SPLIT.safetensors`; a split that is there already is kept.

    Args:
        folder: where to write.
        size: side of the images in pixels.
        counts: split -> images per class. "train" comes first: the other splits drop what it holds.

    Raises:
        ValueError: a split that is there was rendered otherwise, or a number is below 1.
    """
    if min(size, *counts.values()) < 1:
        raise ValueError("a size and the images per class must be at least 1")
    for split, per_class in counts.items():
        path = folder / f"{split}.safetensors"
        made_of = {"size": size, "per_class": per_class, "train_per_class": counts["train"]}
        if path.exists():
            check_same(path, made_of)
            print(f"{path} is there already, kept")
            continue
        rendered = render_split(split, per_class, size, workers)
        if split != "train":
            rendered = without(rendered, set(digests(load(folder, "train").images)))
        save(folder, split, rendered, made_of)


def check_same(path: Path, made_of: dict[str, int]) -> None:
    """Raise ValueError where a split was rendered otherwise. What it dropped depends on the training images."""
    with open_tensors(path, "numpy", cure="delete it, or name another folder") as file:
        before = json.loads((file.metadata() or {}).get("made_of", "{}"))
    if differing := [key for key in before if before[key] != made_of.get(key)]:
        was = ", ".join(f"{key} {before[key]}, not {made_of.get(key)}" for key in differing)
        raise ValueError(f"{path} is there already, with {was}: delete it, or name another folder")


def save(folder: Path, split: str, made: Split, made_of: dict[str, int] | None = None) -> None:
    """Write a split to `folder/SPLIT.safetensors`, whole or not at all."""
    path = Path(folder) / f"{split}.safetensors"
    arrays = {name: np.ascontiguousarray(getattr(made, name)) for name in ("images", "labels", "seeds")}
    meta = {"id2label": json.dumps(dict(enumerate(made.names))), "dropped": str(made.dropped)}
    meta["made_of"] = json.dumps(made_of or {})
    write_whole(path, partial(save_file, arrays, metadata=meta))
    print(f"{path}: {len(made.labels)} images of {len(made.names)} classes, {made.images.shape[-1]} px")


def split_file(folder: Path, split: str) -> Path:
    """Where a split is. FileNotFoundError, which says what to do, where it is not."""
    path = Path(folder) / f"{split}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m train.avatars {folder}` first")
    return path


def load(folder: Path, split: str) -> Split:
    """Read a split that `save` wrote. ValueError where it is damaged, or holds something else."""
    with open_tensors(split_file(folder, split), "numpy") as file:
        metadata = {"id2label": "{}", "dropped": "0"} | (file.metadata() or {})
        images, labels, seeds = (file.get_tensor(name) for name in ("images", "labels", "seeds"))
        names = tuple(json.loads(metadata["id2label"]).values())
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or not images.size:
            raise ValueError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {images.shape}")
        if labels.dtype.kind not in "iu" or not labels.shape == seeds.shape == images.shape[:1]:
            raise ValueError("every image needs a label and a seed, whole numbers")
        return Split(images, labels, seeds, names, int(metadata["dropped"]))


def main() -> None:
    parser = Parser(prog="python -m train.avatars", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=number(int, 1), default=64, help="side in pixels (default 64)")
    parser.add_argument("--train", type=number(int, 1), default=3000, help="training images per class")
    parser.add_argument("--validation", type=number(int, 1), default=50, help="validation images per class")
    parser.add_argument("--test", type=number(int, 1), default=170, help="test images per class")
    parser.add_argument("--workers", type=number(int, 1), default=2)

    def command(folder: Path, size: int, workers: int, **counts: int) -> None:
        build(folder, size, counts, workers)

    parser.call(command)


if __name__ == "__main__":
    main()
