"""Encode a data set once: training then reads latents and never runs the autoencoder.

A set of latents is one folder of safetensors shards, each with the posterior's `mean` and `std` (N, C, h, w) in
latent units and `labels` (N,), all of one image size. Shards are memory-mapped: a set may be larger than memory.

    python -m train.latents data/avatars --split train --vae runs/avatars-autoencoder --out data/avatars-latents
"""

import argparse
import json
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mdt_core.autoencoder import posterior
from mdt_core.runs import write_whole
from train import avatars

SHARD = 8192  # images of one file


def open_autoencoder(folder: str | Path) -> AutoencoderKL | AutoencoderTiny:
    """An autoencoder of either class from a local folder or a hub id."""
    config = AutoencoderKL.load_config(folder)
    family = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    if config.get("_class_name") not in family:
        raise ValueError(f"{folder} holds a {config.get('_class_name')}; {' or '.join(family)} is needed")
    return family[config["_class_name"]].from_pretrained(folder).eval()


@torch.no_grad()
def encode_split(data: Path, split: str, vae, out: Path, batch_size: int = 128, device: str = "cpu") -> None:
    """Encode a split of the avatar set; shards that are there already are kept, so the same command resumes."""
    source = avatars.load(data, split)
    vae.to(device)
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(source.labels), SHARD)
    for number, start in enumerate(tqdm(starts, desc=f"encode {split}", unit="shard")):
        path = out / f"{split}-{number:05d}-of-{len(starts):05d}.safetensors"
        if path.exists():
            continue
        images = torch.from_numpy(source.images[start : start + SHARD])
        parts = [posterior(vae, x.to(device).float() / 127.5 - 1) for x in images.split(batch_size)]
        shard = {
            "mean": torch.cat([part.mean for part in parts]).cpu(),
            "std": torch.cat([part.std for part in parts]).cpu(),
            "labels": torch.from_numpy(source.labels[start : start + SHARD]),
        }
        meta = {"id2label": json.dumps(dict(enumerate(avatars.STYLES)))}
        write_whole(path, lambda partial, shard=shard, meta=meta: save_file(shard, partial, metadata=meta))


class Latents:
    """A split of encoded images, read from its shards as they are asked for."""

    def __init__(self, folder: str | Path, split: str = "train"):
        self.paths = sorted(Path(folder).glob(f"{split}-*-of-*.safetensors"))
        expected = int(self.paths[0].stem.rpartition("-")[2]) if self.paths else 0
        if not self.paths or len(self.paths) != expected:
            raise FileNotFoundError(
                f"{folder} holds {len(self.paths)} of {expected or 'the'} shards of {split!r}: "
                f"run `python -m train.latents ... --split {split} --out {folder}`, it goes on where it stopped"
            )
        self.files = [safe_open(path, framework="pt") for path in self.paths]
        sizes = [file.get_slice("labels").get_shape()[0] for file in self.files]
        self.ends = torch.tensor(sizes).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def id2label(self) -> dict[int, str]:
        return {int(index): name for index, name in json.loads(self.files[0].metadata()["id2label"]).items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self.files[0].get_slice("mean").get_shape()[1:])

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and std (N, C, h, w) and class labels (N,) of the images at `indices`."""
        places = torch.tensor(indices)
        shards = torch.searchsorted(self.ends, places, right=True)
        rows = places - torch.where(shards > 0, self.ends[shards - 1], 0)
        where = list(zip(shards.tolist(), rows.tolist(), strict=True))
        return tuple(torch.cat([self._row(s, name, r) for s, r in where]) for name in ("mean", "std", "labels"))

    def _row(self, shard: int, name: str, row: int) -> Tensor:
        return self.files[shard].get_slice(name)[row : row + 1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.latents", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that train.avatars wrote")
    parser.add_argument("--split", default="train", choices=list(avatars.FIRST_SEED))
    parser.add_argument("--vae", required=True, help="autoencoder: a folder or a hub id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    encode_split(args.data, args.split, open_autoencoder(args.vae), args.out, args.batch_size, args.device)


if __name__ == "__main__":
    main()
