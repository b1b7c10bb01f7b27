"""Latents as training reads them: shards mapped into memory, read at random."""

import json
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdt_core.runs import reading
from mdt_core.training.draws import to_device
from train.latents.encode import encoder_fingerprint, split_of

CACHE_LIMIT = 2**30  # bytes of a set that is read into memory as a whole: a fast GPU would wait for the disk
SAFETENSORS_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}

try:
    import resource
except ImportError:  # Windows
    resource = None


class Shard(dict[str, np.ndarray]):
    """A shard's tensors by name, mapped: their bytes are read when touched, and the system may drop them again."""

    def __init__(self, path: Path):
        with reading(path):
            with path.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # The system reads up to megabytes ahead of what is touched, which rows at random never use.
            self._advise("MADV_RANDOM")
            # The safetensors format: length of the header, header, data.
            start = 8 + int.from_bytes(self._mapped[:8], "little")
            header = json.loads(self._mapped[8:start])
            metadata: dict[str, str] = header.pop("__metadata__", {})
            self.id2label = {int(index): name for index, name in json.loads(metadata["id2label"]).items()}
            self.made_of: dict = json.loads(metadata.get("made_of", "{}"))
            self._offsets: dict[str, int] = {}
            for name, entry in header.items():
                kind, self._offsets[name] = SAFETENSORS_DTYPES[entry["dtype"]], start + entry["data_offsets"][0]
                self[name] = np.ndarray(entry["shape"], kind, buffer=self._mapped, offset=self._offsets[name])
            if self["mean"].ndim != 4 or self["labels"].shape != self["mean"].shape[:1]:
                raise ValueError("every label (N,) needs the mean of a latent (N, C, h, w)")

    def prefetch(self, name: str, row: int) -> None:
        """Let the system begin to read a row of a tensor, without waiting for it."""
        size = self[name].strides[0]
        start = self._offsets[name] + row * size
        page = start - start % mmap.PAGESIZE
        self._advise("MADV_WILLNEED", page, start + size - page)

    def _advise(self, advice: str, *span: int) -> None:
        if hasattr(mmap, advice):  # not on Windows
            self._mapped.madvise(getattr(mmap, advice), *span)


def allow_open_files(more: int) -> None:
    """Raise this process's limit of open files, as far as it may: each mapped shard is one; macOS begins with 256."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Latents:
    """A split of encoded images, read at random from memory-mapped shards: the set may be larger than memory.

    With M images, their mirror images are the indices M to 2M - 1 where they were encoded.

    Args:
        folder: what `train.latents.encode` wrote.
        split: which of its splits.
        repeats: how often an image of a class, by its name, is read for one of the others; 1 where it is not named.

    Raises:
        FileNotFoundError: shards are missing.
        ValueError: one is damaged, or `repeats` names no class of the set, or no whole number of at least 1.
    """

    def __init__(self, folder: str | Path, split: str = "train", repeats: Mapping[str, int] | None = None):
        paths = sorted(path for path in Path(folder).glob("*.safetensors") if split_of(path) == split)
        expected = int(paths[0].stem.rpartition("-")[2]) if paths else 0
        if not paths or len(paths) != expected:
            raise FileNotFoundError(
                f"{folder} holds {len(paths)} of {expected or 'the'} shards of {split!r}: "
                f"run `python -m train.latents ... --split {split} --out {folder}`, it goes on where it stopped"
            )
        allow_open_files(len(paths))
        self.folder, self.shards = Path(folder), [Shard(path) for path in paths]
        self.id2label = self.shards[0].id2label
        self.ends = np.cumsum([len(shard["labels"]) for shard in self.shards])
        self.cached: dict[str, Tensor] = {}  # what `cache` read into memory
        self.order = None  # with balance or repeats: index -> image
        balance = self.made_of.get("balance")
        if balance or repeats:
            labels = np.concatenate([shard["labels"] for shard in self.shards])
            self.order = balanced(labels, balance or 0.0)  # 0: each image once
            self.order = np.repeat(self.order, self._repeats_of_classes(repeats or {})[labels[self.order]])

    def _repeats_of_classes(self, repeats: Mapping[str, int]) -> np.ndarray:
        """How often an image of each class is read, by the class's index."""
        index_of = {name: index for index, name in self.id2label.items()}
        times = np.ones(max(self.id2label, default=0) + 1, np.int64)  # a set without classes has the label 0
        for name, count in repeats.items():
            if name not in index_of:
                raise ValueError(f"repeats: no class is called {name!r}; there are {', '.join(index_of)}")
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"repeats: {name} needs a whole number of at least 1, not {count!r}")
            times[index_of[name]] = count
        return times

    @property
    def made_of(self) -> dict:
        """What was noted of the images and the autoencoder when they were encoded; empty for older shards."""
        return self.shards[0].made_of

    def check_encoder(self, vae, name: str) -> None:
        """Raise ValueError where another encoder than that of `vae`, called `name`, made these latents."""
        encoder = self.made_of.get("encoder")
        if encoder not in (None, encoder_fingerprint(vae)):
            raise ValueError(f"{self.folder} was encoded by another autoencoder than {name}: name the one that made it")

    @property
    def unmirrored(self) -> int:
        """M, the number of images without their mirror images."""
        return int(self.ends[-1]) if self.order is None else len(self.order)

    def __len__(self) -> int:
        return self.unmirrored * (2 if "mirror_mean" in self.shards[0] else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self.shards[0]["mean"].shape[1:])

    def sources(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Which encoded image each index stands for, by its place in the shards, and whether it is the mirror image."""
        flipped, images = np.divmod(np.asarray(indices), self.unmirrored)
        return images if self.order is None else self.order[images], flipped.astype(bool)

    def cache(self, device: torch.device | str = "cpu") -> None:
        """Read a set of at most `CACHE_LIMIT` bytes into a device's memory: batches are then gathered there."""
        names = [name for name in self.shards[0] if name != "labels"]
        if sum(shard[name].nbytes for shard in self.shards for name in names) <= CACHE_LIMIT:
            whole = {name: np.concatenate([shard[name] for shard in self.shards]) for name in [*names, "labels"]}
            self.cached = {name: torch.from_numpy(tensor).to(device) for name, tensor in whole.items()}

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and std (N, C, h, w) in float32 and class labels (N,) of the images at `indices`."""
        asked = np.asarray(indices)
        if asked.min() < 0 or asked.max() >= len(self):
            raise IndexError(f"images {asked.min()} to {asked.max()} are asked for, there are 0 to {len(self) - 1}")
        images, flipped = self.sources(asked)
        mean, std, labels = (self._gather if self.cached else self._read)(images, flipped)
        return mean.float(), torch.zeros_like(mean, dtype=torch.float32) if std is None else std.float(), labels

    def _gather(self, images: np.ndarray, flipped: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor]:
        """Mean, std (None of a deterministic autoencoder) and labels of a set in memory."""
        index = to_device(torch.from_numpy(images), self.cached["labels"].device)

        def moment(name: str) -> Tensor:
            rows = self.cached[name][index]
            if flipped.any():
                mirrored = to_device(torch.from_numpy(flipped), rows.device).view(-1, 1, 1, 1)
                rows = torch.where(mirrored, self.cached[f"mirror_{name}"][index], rows)
            return rows

        return moment("mean"), moment("std") if "std" in self.cached else None, self.cached["labels"][index]

    def _read(self, images: np.ndarray, flipped: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same from the shards, row by row."""
        numbers = np.searchsorted(self.ends, images, side="right")
        rows = images - np.concatenate([[0], self.ends])[numbers]
        prefixes = np.where(flipped, "mirror_", "")
        places = list(zip((self.shards[n] for n in numbers), prefixes.tolist(), rows.tolist(), strict=True))
        for shard, prefix, row in places:  # all of them, before the first is waited for
            for name in {"mean", "std"} & shard.keys():
                shard.prefetch(prefix + name, row)

        def moment(name: str) -> Tensor:
            return torch.from_numpy(np.stack([shard[prefix + name][row] for shard, prefix, row in places]))

        labels = torch.tensor([shard["labels"][row] for shard, _, row in places])
        return moment("mean"), moment("std") if "std" in self.shards[0] else None, labels


def balanced(labels: np.ndarray, power: float) -> np.ndarray:
    """Images in which small classes are repeated, so that a class of n images appears proportional to n^(1 - power).

    0 leaves a set as it is, 0.5 draws each image by the inverse square root of its class's size, 1 makes all
    classes equal. The largest class appears once; of a fraction of a repetition, images spread evenly get one more.

    Args:
        labels: (N,).

    Returns:
        Indices of images, each at least once.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    repeats = np.empty(len(labels), np.int64)
    for number, count in enumerate(counts):
        ends = np.arange(count + 1) * (counts.max() / count) ** power
        repeats[classes == number] = np.diff(np.floor(ends + 1e-9)).astype(np.int64)
    return np.repeat(np.arange(len(labels)), repeats)
