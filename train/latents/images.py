"""The one reader of labelled images: a drawn set (train/avatars.py), or a folder of image files.

Encoding, evaluation, inpainting's measure and the search for neighbours all read through it: the same names are passed
over, the same files are left out as broken, and the same pixels come back. A photo is turned upright, transparency is
laid on white.

Where a size is given, a file becomes a square of it the way ADM and DiT prepare ImageNet: the largest centred square,
reduced by area averages while it is far too large, then resampled. One difference: the last filter is Lanczos in place
of bicubic.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from mdt_core.fingerprint import fingerprint
from mdt_core.pipeline.image_arrays import to_rgb
from mdt_core.runs import read_json
from train import avatars

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CLASS_RULES = ("folder", "prefix", "none")
TOLD = 5  # broken files that are named on the terminal


class BrokenImage(ValueError):
    """A file that cannot be read as an image; the message says which and why."""


class LabelledImages(Protocol):
    """What is encoded: square images of one size, each with a class."""

    size: int | None  # S, in pixels; None: the files as they are
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
        size: side of the squares in pixels, or None for upright images of the files' own sizes.
        classes: "folder": an image's class is the folder that holds it, named by its path below `root`, and there
            are no classes where all images lie in `root` itself; "prefix": ADM's rule, the file name up to its
            first underscore; "none". Classes are numbered in the order of their names, as ADM's and ImageNet's are.
        names: what to call the classes, in that order, in place of folders' names or prefixes.

    Raises:
        ValueError: no images, a mixture of images with and without a class, another number of names, or one that is
            not UTF-8.
    """

    def __init__(self, root: Path, size: int | None, classes: str = "folder", names: list[str] | None = None):
        self.root, self.size = Path(root), size
        self.paths = list_images(self.root)
        if not self.paths:
            raise ValueError(f"{root} holds no images ({' '.join(SUFFIXES)}) in itself or in folders below it")
        class_of_path = [class_name(path, classes) for path in self.paths]
        order = sorted(set(class_of_path))
        if "" in order and len(order) > 1:
            stray = self.paths[class_of_path.index("")]
            raise ValueError(f"{stray} has no class, but others in {root} do: move it, or choose --classes none")
        number = {name: index for index, name in enumerate(order)}
        self.labels = np.array([number[name] for name in class_of_path])
        if names is not None and len(names) != len(order):
            raise ValueError(f"{len(names)} class names are given, but {root} has {len(order)} classes")
        self.id2label = {} if order == [""] else dict(enumerate(names or order))
        for name in self.id2label.values():
            if not _is_text(name):
                raise ValueError(f"the class {name!a} has a name that is not UTF-8: rename it, or give all by --names")

    @property
    def digest(self) -> str:
        """Of the files' names and lengths: one that was drawn over is another image."""
        sizes = [_num_bytes(self.root / path) for path in self.paths]
        return _digest(self.id2label, self.labels, [self.paths, sizes])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = self.root / self.paths[index]
        try:
            image = read_upright(path) if self.size is None else read_square(path, self.size)
        except Exception as error:  # decoders raise all kinds of exceptions on broken data
            reason = " ".join(str(error).split()) or type(error).__name__
            name = os.fsencode(self.paths[index]).decode("utf-8", "replace")  # to be written into a list
            raise BrokenImage(f"{name}: {reason}") from error
        return np.asarray(image).transpose(2, 0, 1), int(self.labels[index])


def check_readable(readable: int, broken: Sequence[str]) -> None:
    """Say which files were left out. ValueError where not one is left.

    Args:
        readable: how many could be read.
        broken: the messages of those that could not.
    """
    if not readable:
        raise ValueError(f"none of the {len(broken)} images can be read; the first: {broken[0]}")
    if broken:
        print(f"left out, for they cannot be read: {len(broken)}", *broken[:TOLD], sep="\n    ")
        if len(broken) > TOLD:
            print(f"    and {len(broken) - TOLD} more")


def _digest(id2label: dict[int, str], labels: np.ndarray, images: list) -> str:
    """16 hexadecimal digits of class names, labels and what tells the images apart."""
    return fingerprint([id2label, images], labels.astype(np.int64))


def _num_bytes(path: Path) -> int:
    """The length of a file; -1 of one that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8, as that of a file from elsewhere may not."""
    return name.encode("utf-8", "replace").decode() == name


def list_images(root: Path) -> list[str]:
    """Paths of image files below `root`, relative to it and sorted; hidden files and folders are passed over.

    Plain strings, for there may be millions. PermissionError where a folder may not be read. Linked folders are
    followed, for a subset of ImageNet is often made so, but none that leads back to where it lies.
    """

    def fail(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    paths = []
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=fail):
        subfolders[:] = [  # where os.walk goes next
            name for name in subfolders if not name.startswith(".") and not _leads_back(Path(folder, name), Path(root))
        ]
        below = os.path.relpath(folder, root)
        paths += [
            os.path.normpath(os.path.join(below, name))
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(paths)


def _leads_back(subfolder: Path, root: Path) -> bool:
    """Whether a subfolder is a link to a folder on the way to it from `root`, or to one that holds such a folder."""
    if not subfolder.is_symlink():
        return False
    target, way = subfolder.resolve(), [folder for folder in subfolder.parents if folder.is_relative_to(root)]
    return any(folder.resolve().is_relative_to(target) for folder in way)


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


def read_upright(path: Path, least: int | None = None) -> Image.Image:
    """An image file as upright RGB, transparency on white.

    Args:
        path: the file.
        least: a JPEG with far more pixels a side may be decoded at an 8th, 4th or half of its size, but not below this.
    """
    with Image.open(path) as image:
        if least is not None:
            image.draft(None, (least, least))
        return to_rgb(ImageOps.exif_transpose(image))


def read_square(path: Path, size: int) -> Image.Image:
    """An image file as an upright RGB square of `size` pixels."""
    upright = read_upright(path, least=2 * size)
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
    names = read_json(path, object)
    if isinstance(names, dict) and names.keys() == {str(index) for index in range(len(names))}:
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} holds no class names: a list of them is needed, or an object from 0, 1, ... to names")
    return names
