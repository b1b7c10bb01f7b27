"""Seeds -> image files -> one npz.

Image i of a sampling run has the seed `first_seed + i` and the class `i % num_classes`, or none where the model knows
none, so neither the batch size nor the number of processes has a say in it. While a run lasts, its finished images are
its state: one PNG each, written whole or not at all. The same command draws what is missing. The result is the ADM
evaluator's file: an npz with uint8 NHWC `arr_0` and labels `arr_1`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from mdt_core.fingerprint import fingerprint, named_weights
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import read_json, reading, write_whole
from train.evaluate.sources import ImageSet
from train.files import open_arrays, write_arrays


@dataclass(frozen=True, kw_only=True)
class Sampling(SamplingSettings):
    """All that decides the pictures of a run."""

    weights: str  # fingerprint of the pipeline's weights
    num_images: int
    first_seed: int


def load_pipeline(model: str, device: torch.device | str):
    """The `mdt_core.MDTPipeline` of a folder, a hub id or a run's checkpoint, on a device, without bars of its own."""
    from mdt_core.pipeline.open import open_pipeline

    pipe = open_pipeline(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights_fingerprint(pipe, lora: bool = True) -> str:
    """16 hexadecimal digits that change with any weight of a pipeline's networks, `lora`: of its addition too."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    if lora and pipe.lora is not None:
        networks["lora"] = pipe.lora
    return fingerprint(*(named_weights(networks[name], prefix=f"{name}.") for name in sorted(networks)))


def labels_of(pipe, names: Sequence[str | None]) -> torch.Tensor:
    """Classes by their names, as a pipeline numbers them: (N,) int64. One that it has not is its null class."""
    index_of = {name: index for index, name in pipe.id2label.items()}
    return torch.tensor([index_of.get(name, pipe.num_classes) for name in names])


# ---- seeds -> images


def image_path(folder: Path, index: int) -> Path:
    """Where a run keeps its image `index`."""
    return folder / f"{index:06d}.png"


def claim(folder: Path, sampling: Sampling) -> None:
    """Make `folder` this run's, or check that it is.

    Raises:
        ValueError: it holds the images of another run.
    """
    note, mine = folder / "sampling.json", asdict(sampling) | {"num_images": None}  # more images may follow
    if folder.exists() and any(path != note for path in folder.iterdir()):
        if not note.exists():
            raise ValueError(f"{folder} holds other files: name a folder that is new or empty")
        if read_json(note, cure=f"delete {folder} or name another one") != mine:
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
                **sampling.arguments,
            ).images
            for index, image in zip(batch, images, strict=True):
                write_whole(image_path(folder, index), partial(image.save, format="PNG", compress_level=1))
            bar.update(len(batch))


def draw_together(pipe, sampling: Sampling, folder: Path, batch_size: int, state: PartialState) -> None:
    """Draw what `folder` still lacks of a run's images, each process its share."""
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
    images = []
    for path in (image_path(folder, index) for index in range(sampling.num_images)):
        with reading(path, "delete it, and it is drawn again"):
            images.append(np.asarray(Image.open(path)))
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
    """Whether `path` is the result of exactly this run.

    Raises:
        ValueError: there is a file, but it is another one; it is not overwritten.
    """
    if not path.exists():
        return False
    with open_arrays(path, "delete it or name another file") as arrays:
        if str(arrays.get("sampling", "")) != json.dumps(asdict(sampling)):
            raise ValueError("it is there already, with other images")
    return True


def draw_to_file(
    pipe, sampling: Sampling, path: Path, batch_size: int, state: PartialState, png_folder: Path | None = None
) -> None:
    """A run's images in an npz, unless they are there already; the PNGs go once they are packed, or stay in a folder.

    Raises:
        ValueError: `path` or the folder holds other images.
    """
    own = path.with_name(path.name + ".partial")
    if is_finished(path, sampling):
        shutil.rmtree(own, ignore_errors=True)  # of a run that was killed when it had packed them
        return
    folder = png_folder or own
    draw_together(pipe, sampling, folder, batch_size, state)
    if state.is_main_process:
        names = tuple(pipe.id2label[label] for label in range(pipe.num_classes))
        write(path, pack(folder, sampling, pipe.num_classes, names), sampling)
        if not png_folder:
            shutil.rmtree(folder)
