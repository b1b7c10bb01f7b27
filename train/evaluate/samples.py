"""Seeds -> image files, and image files -> arrays.

Image i of a sampling run has the seed `first_seed + i` and the class `i % num_classes`, or none where the model knows
none, so neither the batch size nor the number of processes has a say in it. While a run lasts, its finished images are
its state: one PNG each, written whole or not at all. The same command draws what is missing. The result is the ADM
evaluator's file: an npz with uint8 NHWC `arr_0` and labels `arr_1`.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from mdt_core.fingerprint import fingerprint, named_weights
from mdt_core.pipeline.image_arrays import to_rgb
from mdt_core.runs import write_whole
from train.evaluate.features import write_arrays

BUILT_SETS = ("avatars", "emoji")  # by train.avatars and train.emoji, in files of one form
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 (N, H, W, 3), with int64 labels (N,) and class names where they are known."""

    images: "np.ndarray | FolderImages"
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    dropped: int = 0  # of a built set: images that its training split holds too, and that were left out for it


@dataclass(frozen=True)
class Sampling:
    """All that decides the pictures of a run."""

    weights: str  # fingerprint of the pipeline's weights
    num_images: int
    first_seed: int
    num_inference_steps: int
    sampler: str
    guidance_scale: float
    guidance_power: float


def weights_fingerprint(pipe) -> str:
    """16 hexadecimal digits that change with any weight of the pipeline's networks."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return fingerprint(*(named_weights(networks[name], prefix=f"{name}.") for name in sorted(networks)))


# ---- seeds -> images


def image_path(folder: Path, index: int) -> Path:
    """Where a run keeps its image `index`."""
    return folder / f"{index:06d}.png"


def claim(folder: Path, sampling: Sampling) -> None:
    """Make `folder` the one of this run, or find that it is.

    Raises:
        ValueError: it holds the images of another run.
    """
    note, mine = folder / "sampling.json", asdict(sampling) | {"num_images": None}  # more images may follow
    if folder.exists() and any(path != note for path in folder.iterdir()):
        if not note.exists():
            raise ValueError(f"{folder} holds other files: name a folder that is new or empty")
        if json.loads(note.read_text()) != mine:
            raise ValueError(f"{folder} holds images of another model or other settings: delete it or name another one")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(note, lambda path: path.write_text(json.dumps(mine, indent=1)))


def missing(folder: Path, num_images: int) -> list[int]:
    """The indices of the images that are still to be drawn."""
    return [index for index in range(num_images) if not image_path(folder, index).exists()]


def share(indices: Sequence[int], batch_size: int, process: int, processes: int) -> list[Sequence[int]]:
    """The batches of one of several processes."""
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)][process::processes]


def draw(pipe, sampling: Sampling, folder: Path, batches: list[Sequence[int]], progress: bool = True) -> None:
    """Draw batches of images to `folder`.

    Args:
        pipe: an `mdt_core.MDTPipeline`.
        sampling: the settings.
        folder: where the images go, see `image_path`.
        batches: the indices of each batch.
        progress: whether to show a bar with images per second.
    """
    total = sum(map(len, batches))
    # delay: a call that the pipeline refuses at once ends with the refusal alone.
    with tqdm(total=total, desc="sample", unit="image", disable=not progress, delay=0.5) as bar:
        for batch in batches:
            images = pipe(
                class_labels=[index % pipe.num_classes if pipe.num_classes else None for index in batch],
                seeds=[sampling.first_seed + index for index in batch],
                guidance_scale=sampling.guidance_scale,
                guidance_power=sampling.guidance_power,
                num_inference_steps=sampling.num_inference_steps,
                sampler=sampling.sampler,
            ).images
            for index, image in zip(batch, images, strict=True):
                write_whole(image_path(folder, index), partial(image.save, format="PNG", compress_level=1))
            bar.update(len(batch))


def draw_together(pipe, sampling: Sampling, folder: Path, batch_size: int, state: PartialState) -> None:
    """What `folder` still lacks of a run's images, drawn by all processes."""
    if state.is_main_process:
        claim(folder, sampling)
    state.wait_for_everyone()
    todo = missing(folder, sampling.num_images)
    state.wait_for_everyone()  # every process has the same list before the first image changes it
    batches = share(todo, batch_size, state.process_index, state.num_processes)
    draw(pipe, sampling, folder, batches, progress=state.is_main_process)
    state.wait_for_everyone()


def pack(folder: Path, sampling: Sampling, num_classes: int, names: tuple[str, ...]) -> ImageSet:
    """The finished images of a run as one set."""
    images = [np.asarray(Image.open(image_path(folder, index))) for index in range(sampling.num_images)]
    labels = np.arange(sampling.num_images) % num_classes if num_classes else None
    return ImageSet(np.stack(images), labels, names)


def write(path: Path, images: ImageSet, sampling: Sampling | None = None) -> None:
    """Write the ADM npz, whole or not at all; names and settings, where given, are further entries."""
    arrays = {"arr_0": images.images}
    if images.labels is not None:
        arrays |= {"arr_1": images.labels, "names": np.array(images.names, str)}
    if sampling is not None:
        arrays["sampling"] = np.array(json.dumps(asdict(sampling)))
    write_arrays(path, arrays)


def is_finished(path: Path, sampling: Sampling) -> bool:
    """Whether `path` is the result of this very run.

    Raises:
        ValueError: there is a file, but it is another one; it is not overwritten.
    """
    if not path.exists():
        return False
    found = None
    if zipfile.is_zipfile(path):
        with np.load(path) as arrays:
            found = str(arrays.get("sampling", ""))
    if found != json.dumps(asdict(sampling)):
        raise ValueError(f"{path} is there already, with other images: delete it or name another file")
    return True


# ---- files -> images


def read(source: str, data: Path) -> ImageSet:
    """The images that a word, a folder or an npz file stands for.

    Args:
        source: a built set and its split, as `avatars:test`; a folder of images of one size; or an npz with uint8
            NHWC `arr_0`.
        data: the folder that holds the built sets.

    Raises:
        ValueError: there is nothing, or nothing fitting, at `source`.
    """
    return find(source, data)()


def find(source: str, data: Path) -> Callable[[], ImageSet]:
    """What reads the images at `source`, as `read` takes it; raises at once where there is nothing to read."""
    name, _, split = source.partition(":")
    if split and (name in BUILT_SETS or any((data / name).glob("*.safetensors"))):
        from train import avatars

        if split not in avatars.FIRST_SEED:
            raise ValueError(f"{name} has no split {split!r}: choose one of {', '.join(avatars.FIRST_SEED)}")
        avatars.split_file(data / name, split)
        return partial(_read_split, data / name, split)
    if Path(source).is_dir():
        return partial(_read_folder, Path(source))
    if Path(source).is_file():
        return partial(_read_npz, Path(source))
    raise ValueError(f"{source} is neither SET:SPLIT ({' or '.join(BUILT_SETS)}) nor an image folder nor an npz file")


def _read_split(folder: Path, split: str) -> ImageSet:
    from train import avatars

    found = avatars.load(folder, split)
    return ImageSet(found.images.transpose(0, 2, 3, 1), found.labels, found.names, found.dropped)


class FolderImages:
    """The images of files: as an array of uint8 (N, H, W, 3), but read when they are asked for, a slice at a time.

    Transparency is laid on white, as where they are encoded for training.

    Raises:
        ValueError: the images differ in size.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        sizes = [Image.open(path).size for path in paths]  # their first bytes alone
        for path, size in zip(paths, sizes, strict=True):
            # Scaling them here would change every figure with the filter that it took.
            if size != sizes[0]:
                mixed = " and ".join(f"{width}x{height}" for width, height in (sizes[0], size))
                folder = paths[0].parent
                raise ValueError(f"{folder} mixes sizes ({mixed} at {path.name}): bring all images to one size first")
        self.shape = (len(paths), sizes[0][1], sizes[0][0], 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if isinstance(index, slice):
            return np.stack([self[i] for i in range(*index.indices(len(self)))])
        return np.asarray(to_rgb(Image.open(self.paths[index])))


def _read_folder(folder: Path) -> ImageSet:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ImageSet(FolderImages(paths))


def _read_npz(path: Path) -> ImageSet:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an npz file, or its end is missing")
    with np.load(path) as arrays:  # refuses pickled objects
        if "arr_0" not in arrays:
            raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}, but no images in arr_0")
        images, labels, names = arrays["arr_0"], arrays.get("arr_1"), tuple(arrays.get("names", np.array([])).tolist())
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"arr_0 of {path} must be uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
    return ImageSet(images, labels, names)
