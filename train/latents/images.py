"""Labelled images, whatever they come from: a drawn set (train/avatars.py, train/emoji.py) or folders of image files.

A file becomes a square the way ADM and DiT prepare ImageNet: the largest centred square, reduced by area averages while
it is far too large, then resampled. Two differences: the last filter is Lanczos in place of bicubic, and a photo is
turned upright first. Transparency is laid on white.
"""

import json
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from mdt_core.fingerprint import fingerprint
from mdt_core.pipeline.image_arrays import to_rgb
from train import avatars

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CLASS_RULES = ("folder", "prefix", "none")


class BrokenImage(ValueError):
    """A file that cannot be read as an image; the message says which and why."""


class LabelledImages(Protocol):
    """What is encoded: square images of one size, each with a class."""

    size: int  # S, in pixels
    id2label: dict[int, str]  # empty where there are no classes: every label is 0 then, the null class of no classes

    @property
    def digest(self) -> str:
        """Hexadecimal digits that change with which images these are, their order and their classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (3, S, S) uint8 and label. BrokenImage where the image cannot be read."""
        ...


class DrawnImages:
    """A split of a set that was drawn into memory: `folder/SPLIT.safetensors`."""

    def __init__(self, folder: Path, split: str):
        self.split = avatars.load(folder, split)
        self.size = self.split.images.shape[-1]
        self.id2label = dict(enumerate(self.split.names))

    @property
    def digest(self) -> str:
        return _digest(self.id2label, self.split.labels, self.split.seeds.tolist())

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.split.images[index], int(self.split.labels[index])


class ImageFolder:
    """All image files below a folder, in the order of their paths.

    Args:
        root: the folder.
        size: side of the squares in pixels.
        classes: "folder": an image's class is the folder that holds it, named by its path below `root`, and there
            are no classes where all images lie in `root` itself; "prefix": ADM's rule, the file name up to its
            first underscore; "none". Classes are numbered in the order of their names, as ADM's and ImageNet's are.
        names: what to call the classes, in that order, in place of folders' names or prefixes.

    Raises:
        ValueError: no images, a mixture of images with and without a class, or another number of names.
    """

    def __init__(self, root: Path, size: int, classes: str = "folder", names: list[str] | None = None):
        self.root, self.size = Path(root), size
        self.paths = list_images(self.root)
        if not self.paths:
            raise ValueError(f"{root} holds no images ({' '.join(SUFFIXES)}) in itself or in folders below it")
        found = [class_name(path, classes) for path in self.paths]
        order = sorted(set(found))
        if "" in order and len(order) > 1:
            stray = self.paths[found.index("")]
            raise ValueError(f"{stray} has no class, but others in {root} do: move it, or choose --classes none")
        number = {name: index for index, name in enumerate(order)}
        self.labels = np.array([number[name] for name in found])
        if names is not None and len(names) != len(order):
            raise ValueError(f"{len(names)} class names are given, but {root} has {len(order)} classes")
        self.id2label = {} if order == [""] else dict(enumerate(names or order))

    @property
    def digest(self) -> str:
        return _digest(self.id2label, self.labels, self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        try:
            image = read_square(self.root / self.paths[index], self.size)
        except Exception as error:  # decoders raise all kinds of exceptions on broken data
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BrokenImage(f"{self.paths[index]}: {reason}") from error
        return np.asarray(image).transpose(2, 0, 1), int(self.labels[index])


def _digest(id2label: dict[int, str], labels: np.ndarray, images: list) -> str:
    """16 hexadecimal digits of class names, labels and what tells the images apart."""
    return fingerprint([id2label, images], labels.astype(np.int64))


def list_images(root: Path) -> list[str]:
    """Paths of image files below `root`, relative to it and sorted; hidden files and folders are passed over.

    Plain strings, for there may be millions. Linked folders are followed: a subset of ImageNet is often made so.
    """
    found = []
    for folder, inside, files in os.walk(root, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        below = os.path.relpath(folder, root)
        found += [
            os.path.normpath(os.path.join(below, name))
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def class_name(path: str, rule: str) -> str:
    """The class of an image by its path below the root; "" for none."""
    if rule == "folder":
        return Path(path).parent.as_posix().removeprefix(".")
    if rule == "prefix":
        name, underscore, _ = Path(path).name.partition("_")
        return name if underscore else ""
    if rule == "none":
        return ""
    raise ValueError(f"classes must be one of {', '.join(CLASS_RULES)}, not {rule!r}")


def read_square(path: Path, size: int) -> Image.Image:
    """An image file as an upright RGB square of `size` pixels."""
    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))  # a JPEG far too large is decoded at an 8th, 4th or half of its size
        upright = to_rgb(ImageOps.exif_transpose(image))
    width, height = upright.size
    left, top, side = (width - min(width, height)) / 2, (height - min(width, height)) / 2, min(width, height)
    square = (left, top, left + side, top + side)
    return upright.resize((size, size), Image.Resampling.LANCZOS, box=square, reducing_gap=2.0)


def open_images(
    source: Path, split: str, size: int | None = None, classes: str = "folder", names: Path | None = None
) -> LabelledImages:
    """The images at `source`: a drawn set's split where it has one, else image files.

    Args:
        source: a folder.
        split: of a drawn set.
        size: side in pixels; needed for image files, and a drawn set's own otherwise.
        classes: of image files, see ImageFolder.
        names: of image files' classes: a JSON file with a list, or with an object from 0, 1, ... to names.

    Raises:
        ValueError, FileNotFoundError: nothing fitting is there.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder: name one that holds images, or that train.avatars wrote")
    if any(source.glob("*.safetensors")):
        return DrawnImages(source, split)
    if size is None:
        raise ValueError(f"{source} holds image files: say how large they are to be encoded, as --size 256")
    return ImageFolder(source, size, classes, read_names(names) if names else None)


def read_names(path: Path) -> list[str]:
    """Class names from a JSON file, in the order of their indices. ValueError where it holds something else."""
    found = json.loads(path.read_text("utf-8"))
    if isinstance(found, dict) and found.keys() == {str(index) for index in range(len(found))}:
        found = [found[str(index)] for index in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} holds no class names: a list of them is needed, or an object from 0, 1, ... to names")
    return found
