"""A SOURCE of the command line -> arrays of images.

    avatars-128:test     a split of a drawn set: the folder `avatars-128` below --data, or any other path to one
    photos/              a folder of image files, read as train.latents reads them
    samples.npz          the ADM evaluator's file: uint8 NHWC `arr_0`, labels `arr_1` where they are known

Every command that takes images takes them so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mdt_core.command.parser import number
from train import avatars
from train.files import open_arrays
from train.latents.images import BrokenImage, DrawnImages, ImageFolder, check_readable

HELP = "SET:SPLIT (as avatars:test), FOLDER or FILE.npz"


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 (N, H, W, 3), with int64 labels (N,) and class names where they are known."""

    images: "np.ndarray | FolderImages"
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    dropped: int = 0  # of a drawn set: images that its training split holds too, and that were left out for it


class FolderImages:
    """The images of a folder as an array of uint8 (N, H, W, 3), but read when they are asked for, a slice at a time.

    Every file is read once at first, so that a broken one is left out, with a message, before anything is computed.

    Raises:
        ValueError: the images differ in size, or none can be read.
    """

    def __init__(self, folder: ImageFolder) -> None:
        self.folder, self.indices = folder, []
        sizes, broken, height, width = [], [], 0, 0
        for index, path in enumerate(folder.paths):
            try:
                _, height, width = folder[index][0].shape
            except BrokenImage as error:
                broken.append(str(error))
                continue
            self.indices.append(index)
            sizes.append(f"{width}x{height}")
            # To scale them here would change every figure with the filter that it took.
            if sizes[-1] != sizes[0]:
                mixed = f"{folder.root} mixes sizes ({sizes[0]} and {sizes[-1]} at {path})"
                raise ValueError(f"{mixed}: bring all images to one size first, or cut them by --size as training does")
        check_readable(len(self.indices), broken)
        self.shape = (len(self.indices), height, width, 3)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if isinstance(index, slice):
            return np.stack([self[i] for i in range(*index.indices(len(self)))])
        return self.folder[self.indices[index]][0].transpose(1, 2, 0)


def add_source_options(option: Callable) -> None:
    """--data, --size and --device; `option` is a parser's `add_argument`."""
    option("--data", type=Path, default=Path("data"), help="folder of the drawn sets (default data)")
    as_training = "cut image files to squares of this side, as training does; default: they are of one size already"
    option("--size", type=number(int, 1), metavar="PX", help=as_training)
    option("--device", help="default: the best there is")


def read(source: str, data: Path, size: int | None = None) -> ImageSet:
    """The images that a source stands for.

    Args:
        source: see above.
        data: the folder that holds the drawn sets.
        size: bring image files to squares of this side, in pixels; None: they are as they should be.

    Raises:
        ValueError, FileNotFoundError: there is nothing, or nothing fitting, at `source`.
    """
    return locate(source, data, size)()


def locate(source: str, data: Path, size: int | None = None) -> Callable[[], ImageSet]:
    """What reads the images at `source`, as `read` takes it; raises at once where there is nothing to read."""
    name, colon, split = source.partition(":")
    if Path(source).is_dir():
        if any(Path(source).glob("*.safetensors")):
            raise ValueError(f"{source} holds a drawn set: name its split too, as {source}:test")
        return partial(_read_folder, Path(source), size)
    if Path(source).is_file():
        return partial(_read_npz, Path(source))
    if not colon:
        raise ValueError(f"{source} is neither SET:SPLIT nor an image folder nor an npz file")
    if split not in avatars.FIRST_SEED:
        raise ValueError(f"{name} has no split {split!r}: choose one of {', '.join(avatars.FIRST_SEED)}")
    folder = Path(name) if Path(name).is_dir() and not (data / name).is_dir() else data / name
    avatars.split_file(folder, split)
    return partial(_read_split, folder, split)


def _read_split(folder: Path, split: str) -> ImageSet:
    drawn = DrawnImages(folder, split).split
    return ImageSet(drawn.images.transpose(0, 2, 3, 1), drawn.labels, drawn.names, drawn.dropped)


def _read_folder(folder: Path, size: int | None) -> ImageSet:
    return ImageSet(FolderImages(ImageFolder(folder, size, classes="none")))


def _read_npz(path: Path) -> ImageSet:
    with open_arrays(path) as arrays:
        if "arr_0" not in arrays:
            raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}, but no images in arr_0")
        images, labels, names = (np.asarray(arrays.get(name, ())) for name in ("arr_0", "arr_1", "names"))
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise ValueError(f"arr_0 must be uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
        if "arr_1" not in arrays:
            labels = None
        elif labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(f"arr_1 must be a whole number per image, got {labels.dtype} {labels.shape}")
        if names.size and (names.dtype.kind != "U" or names.ndim != 1):
            raise ValueError(f"names must be a list of texts, got {names.dtype} {names.shape}")
    return ImageSet(images, labels, tuple(names.tolist()))
