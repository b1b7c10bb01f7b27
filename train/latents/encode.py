"""Images -> shards of latents: once, by any number of processes, going on where it stopped.

A shard is a safetensors file with the posterior's `mean` (N, C, h, w) in latent units, its `std` unless the autoencoder
is deterministic, `labels` (N,), and for mirror images `mirror_mean` and `mirror_std`. It is there whole or not at all.
Which images it holds depends on its number alone, so neither an interruption nor the number of processes leaves a
trace.
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mdt_core.acceleration.machine import cpus_alone
from mdt_core.autoencoder import downscale, posterior
from mdt_core.fingerprint import fingerprint, named_weights
from mdt_core.runs import write_whole
from train.files import open_tensors
from train.latents.images import BrokenImage, LabelledImages, check_readable

SHARD = 2048  # images of one file: what a killed process loses at most
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Readable(Dataset):
    """Images as a loader's workers read them: a broken one becomes its message."""

    def __init__(self, images: LabelledImages):
        self.images = images

    def __getitem__(self, index: int) -> tuple[np.ndarray, int] | str:
        try:
            return self.images[index]
        except BrokenImage as error:
            return str(error)

    @staticmethod
    def collate(items: list) -> tuple[Tensor | None, list[int], list[str]]:
        """Pixels (N, 3, S, S) uint8 and N labels of what could be read, and the messages of the rest."""
        whole = [item for item in items if not isinstance(item, str)]
        pixels = torch.from_numpy(np.stack([image for image, _ in whole])) if whole else None
        return pixels, [label for _, label in whole], [item for item in items if isinstance(item, str)]


def moments(vae, pixels: Tensor, mirror: bool) -> dict[str, Tensor]:
    """Pixels (N, 3, S, S) uint8 -> mean and std (N, C, h, w), and with `mirror` those of the mirror images."""
    pixels = pixels.to(vae.device).float() / 127.5 - 1
    views = {"": pixels} | ({"mirror_": pixels.flip(-1)} if mirror else {})
    tensors = {}
    for prefix, view in views.items():
        mean, std = posterior(vae, view)
        tensors |= {f"{prefix}mean": mean.cpu(), f"{prefix}std": std.cpu()}
    return tensors


def encoder_fingerprint(vae) -> str:
    """16 hexadecimal digits that change with any weight that latents depend on."""
    scaling = [vae.config.scaling_factor, vae.config.shift_factor]
    return fingerprint(scaling, named_weights(vae, only=("encoder.", "quant_conv.")))


@torch.no_grad()
def encode(
    images: LabelledImages,
    vae,
    out: Path,
    split: str = "train",
    *,
    mirror: bool = False,
    balance: float = 0.0,
    dtype: str = "float32",
    batch_size: int = 64,
    workers: int = 0,
    cpu: bool = False,
) -> None:
    """Write the shards that `out` lacks; of P processes that the launcher started, each writes every P-th.

    Args:
        images: what to encode.
        vae: the autoencoder.
        out: a folder that is new, or holds shards of the same images by the same encoder.
        split: what the shards' names begin with.
        mirror: encode the mirror images too.
        balance: noted in the shards for training, which reads small classes more often by it: see `Latents`.
        dtype: of the moments, "float32" or "float16".
        batch_size: images that the autoencoder sees at once.
        workers: processes that read images, beside each one that encodes.
        cpu: leave a GPU alone.

    Raises:
        ValueError: the images do not fit the autoencoder, `out` holds something else, or no image can be read.
    """
    if images.size % downscale(vae):
        raise ValueError(f"{images.size} px do not fit this autoencoder: choose a multiple of {downscale(vae)}")
    state = PartialState(cpu=cpu or cpus_alone(), timeout=timedelta(days=7))  # the fast processes wait for the slowest
    vae.to(state.device)

    # What is to be written, and what of it is there already.
    made_of = {"images": len(images), "size": images.size, "source": images.digest, "encoder": encoder_fingerprint(vae)}
    made_of |= {"mirror": mirror, "balance": balance, "dtype": dtype}
    metadata = {"id2label": json.dumps(images.id2label), "made_of": json.dumps(made_of)}
    shards = shards_of(out, split, len(images))
    check_same(out, split, list(shards), made_of)
    mine = dict(list(shards.items())[state.process_index :: state.num_processes])
    missing = {path: indices for path, indices in mine.items() if not path.exists()}

    # Shard by shard: read, encode, write. A shard of broken images alone has the shape of the example.
    example = moments(vae, torch.zeros(1, 3, images.size, images.size, dtype=torch.uint8), mirror)
    kept = [key for key in example if example["std"].any() or not key.endswith("std")]
    batches = read_batches(images, missing.values(), batch_size, workers, pin_memory=state.device.type == "cuda")
    with progress_bar(f"encode {split}", mine.values(), missing.values(), state) as bar:
        for path, indices in missing.items():
            parts, labels, broken = [example], [], []
            while len(labels) + len(broken) < len(indices):
                pixels, batch_labels, batch_broken = next(batches)
                if pixels is not None:
                    parts.append(moments(vae, pixels, mirror))
                labels += batch_labels
                broken += batch_broken
                bar.update(len(batch_labels) + len(batch_broken))
            tensors = {key: torch.cat([part[key] for part in parts])[1:].to(DTYPES[dtype]) for key in kept}
            tensors["labels"] = torch.tensor(labels, dtype=torch.int64)
            write_whole(path, partial(save_file, tensors, metadata=metadata | {"broken": json.dumps(broken)}))
    state.wait_for_everyone()
    if state.is_main_process:
        report(out, split, list(shards))


def shards_of(out: Path, split: str, num_images: int) -> dict[Path, range]:
    """The files of a split, and the images that each of them holds."""
    starts = range(0, num_images, SHARD)
    return {
        out / f"{split}-{number:05d}-of-{len(starts):05d}.safetensors": range(start, min(start + SHARD, num_images))
        for number, start in enumerate(starts)
    }


def split_of(path: Path) -> str | None:
    """The split that a shard is of, by its name; None where it is no shard's."""
    match = re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.safetensors", path.name)
    return match and match[1]


def read_batches(
    images: LabelledImages, shards: Iterable[range], batch_size: int, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor | None, list[int], list[str]]]:
    """What `Readable.collate` gives, batch by batch; no batch has images of two shards.

    One loader for all shards: its workers read the next one while a shard is written.
    """
    batches = [list(indices[i : i + batch_size]) for indices in shards for i in range(0, len(indices), batch_size)]
    return iter(
        DataLoader(
            Readable(images),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=Readable.collate,
            pin_memory=pin_memory,
        )
    )


def progress_bar(name: str, mine: Iterable[range], missing: Iterable[range], state: PartialState) -> tqdm:
    """The main process's bar, over its own images; it begins with those that are there already."""
    total, left = (sum(map(len, shards)) for shards in (mine, missing))
    name += f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
    silent = not state.is_main_process
    return tqdm(total=total, initial=total - left, desc=name, unit="image", smoothing=0.05, disable=silent)


def check_same(out: Path, split: str, paths: list[Path], made_of: dict) -> None:
    """Raise ValueError where `out` holds shards of another encoder, or of this split of other images or settings."""
    for path in sorted(filter(split_of, out.glob("*.safetensors"))):
        with open_tensors(path, cure=f"delete {out} or name another folder") as file:
            before = json.loads((file.metadata() or {}).get("made_of", "{}"))
            same_split = split_of(path) == split
            differing = [key for key in (made_of if same_split else ["encoder"]) if before.get(key) != made_of[key]]
            if differing or (same_split and path not in paths):
                was = ", ".join(
                    "other images" if key == "source" else f"{key} {before.get(key, 'unknown')}" for key in differing
                )
                raise ValueError(f"it is there already and was made with {was or 'another number of shards'}")


def report(out: Path, split: str, paths: list[Path]) -> None:
    """Say what there is now; list the files that could not be read in `out/SPLIT-broken.txt`.

    Raises:
        ValueError: none could be read; the empty shards are removed.
    """
    count, broken = 0, []
    for path in paths:
        with open_tensors(path) as file:
            count += file.get_slice("labels").get_shape()[0]
            broken += json.loads(file.metadata()["broken"])
    if not count:
        for path in paths:
            path.unlink()
    broken = [*dict.fromkeys(broken)]  # a file that is read several times is told of once
    check_readable(count, broken)
    print(f"{out}: images {count}, shards {len(paths)}")
    if broken:
        listed = out / f"{split}-broken.txt"
        listed.write_text("\n".join(broken) + "\n", "utf-8")
        print(f"the files left out are listed in {listed}")
