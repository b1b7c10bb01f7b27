"""Images -> shards of latents: once, by any number of processes, going on where it stopped.

A shard is a safetensors file with the posterior's `mean` (N, C, h, w) in latent units, its `std` unless the autoencoder
is deterministic, `labels` (N,), and for mirror images `mirror_mean` and `mirror_std`. It is there whole or not at all.
Which images it holds depends on its number alone, so neither an interruption nor the number of processes leaves a
trace.
"""

import json
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mdt_core.acceleration.machine import cpus_alone
from mdt_core.autoencoder import downscale, posterior
from mdt_core.fingerprint import fingerprint, named_weights
from mdt_core.runs import write_whole
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
    found = {}
    for prefix, view in {"": pixels, "mirror_": pixels.flip(-1)}.items() if mirror else {"": pixels}.items():
        mean, std = posterior(vae, view)
        found |= {f"{prefix}mean": mean.cpu(), f"{prefix}std": std.cpu()}
    return found


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
        balance: written down for training, see train.latents.
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
    example = moments(vae, torch.zeros(1, 3, images.size, images.size, dtype=torch.uint8), mirror)
    kept = [key for key in example if example["std"].any() or not key.endswith("std")]

    made_of = {"images": len(images), "size": images.size, "source": images.digest, "encoder": encoder_fingerprint(vae)}
    made_of |= {"mirror": mirror, "balance": balance, "dtype": dtype}
    meta = {"id2label": json.dumps(images.id2label), "made_of": json.dumps(made_of)}
    spans = [range(start, min(start + SHARD, len(images))) for start in range(0, len(images), SHARD)]
    paths = [out / f"{split}-{number:05d}-of-{len(spans):05d}.safetensors" for number in range(len(spans))]
    check_same(out, split, paths, made_of)

    mine = list(zip(paths, spans, strict=True))[state.process_index :: state.num_processes]
    todo = [(path, span) for path, span in mine if not path.exists()]
    # One loader for all shards keeps its workers busy; no batch crosses the border of a shard.
    batches = [[list(span[i : i + batch_size]) for i in range(0, len(span), batch_size)] for _, span in todo]
    loader = DataLoader(
        Readable(images),
        batch_sampler=list(chain.from_iterable(batches)),
        num_workers=workers,
        collate_fn=Readable.collate,
        pin_memory=state.device.type == "cuda",
    )
    total, left = (sum(len(span) for _, span in some) for some in (mine, todo))
    name = f"encode {split}" + (f", process 1 of {state.num_processes}" if state.num_processes > 1 else "")
    with tqdm(
        total=total, initial=total - left, desc=name, unit="image", smoothing=0.05, disable=not state.is_main_process
    ) as bar:
        read = iter(loader)
        for (path, _), parts in zip(todo, batches, strict=True):
            found, labels, broken = [example], [], []  # the example gives a shard of broken images its shape
            for _ in parts:
                pixels, some_labels, some_broken = next(read)
                if pixels is not None:
                    found.append(moments(vae, pixels, mirror))
                labels += some_labels
                broken += some_broken
                bar.update(len(some_labels) + len(some_broken))
            shard = {key: torch.cat([part[key] for part in found])[1:].to(DTYPES[dtype]) for key in kept}
            shard["labels"] = torch.tensor(labels, dtype=torch.int64)
            write_whole(path, partial(save_file, shard, metadata=meta | {"broken": json.dumps(broken)}))
    state.wait_for_everyone()
    if state.is_main_process:
        report(out, split, paths)


def check_same(out: Path, split: str, paths: list[Path], made_of: dict) -> None:
    """Raise ValueError where `out` holds shards of another encoder, or of this split of other images or settings."""
    for path in sorted(out.glob("*-*-of-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            before = json.loads(file.metadata().get("made_of", "{}"))
        ours = path.name.startswith(f"{split}-")
        differs = [key for key in (made_of if ours else ["encoder"]) if before.get(key) != made_of[key]]
        if differs or (ours and path not in paths):
            was = ", ".join(f"{key} {before.get(key, 'unknown')}" for key in differs) or "another number of shards"
            raise ValueError(f"{path} is there already and was made with {was}: delete {out} or name another folder")


def report(out: Path, split: str, paths: list[Path]) -> None:
    """Say what there is now; list the files that could not be read in `out/SPLIT-broken.txt`.

    Raises:
        ValueError: none could be read; the empty shards are removed.
    """
    count, broken = 0, []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            count += file.get_slice("labels").get_shape()[0]
            broken += json.loads(file.metadata()["broken"])
    if not count:
        for path in paths:
            path.unlink()
    check_readable(count, broken)
    print(f"{out}: images {count}, shards {len(paths)}")
    if broken:
        listed = out / f"{split}-broken.txt"
        listed.write_text("\n".join(broken) + "\n", "utf-8")
        print(f"the files left out are listed in {listed}")
