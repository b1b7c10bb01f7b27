"""Latents: what is encoded comes back, however often the encoding was interrupted and by however many processes."""

import json
import mmap
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mdt_core.autoencoder import encode as encode_pixels
from tests.helpers.commands import run_command
from tests.helpers.forked import start_together
from train.autoencoder.model import small_autoencoder
from train.latents import dataset
from train.latents import encode as encoding
from train.latents.dataset import Latents, balanced
from train.latents.encode import encode
from train.latents.images import ImageFolder


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return small_autoencoder(8, 8, latent_channels=8, block=4)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """20 images of noise in two classes, and shards of 8."""
    monkeypatch.setattr(encoding, "SHARD", 8)
    rng = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / "images" / ("cat" if index < 6 else "dog") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    return tmp_path / "images"


def pixels(images: ImageFolder, indices: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(images[index][0].copy()) for index in indices]).float() / 127.5 - 1


def contents(out: Path) -> dict[str, dict]:
    """Shard -> its metadata and the bytes of its tensors (a file's header has no fixed order)."""
    found = {}
    for path in out.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            found[path.name] = file.metadata() | {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    return found


def test_images_and_their_mirrors_come_back_by_index(folder, vae, tmp_path):
    """Catches shards read in the wrong order or off by one at their borders, and mirror images that are none."""
    images = ImageFolder(folder, 16)
    encode(images, vae, tmp_path / "out", mirror=True, batch_size=3, cpu=True)
    data = Latents(tmp_path / "out")
    assert len(data) == 2 * 20 and data.shape == (8, 4, 4) and data.id2label == {0: "cat", 1: "dog"}
    indices = [19, 0, 8, 7, 16]
    mean, std, labels = data.batch(indices)
    torch.testing.assert_close(mean, encode_pixels(vae, pixels(images, indices)), rtol=0, atol=1e-5)
    assert std.shape == mean.shape and std.abs().max() == 0  # a deterministic autoencoder
    assert labels.tolist() == [1, 0, 1, 1, 1]
    mean, _, mirrored_labels = data.batch([20 + index for index in indices])
    torch.testing.assert_close(mean, encode_pixels(vae, pixels(images, indices).flip(-1)), rtol=0, atol=1e-5)
    assert mirrored_labels.tolist() == labels.tolist()
    with pytest.raises(IndexError, match="0 to 39"):
        data.batch([40])


def test_the_spread_of_a_posterior_is_kept(folder, tmp_path):
    """Catches a std that is dropped where the autoencoder is not deterministic, also in half precision."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kl = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)
    encode(ImageFolder(folder, 16), kl, tmp_path / "out", dtype="float16", cpu=True)
    mean, std, _ = Latents(tmp_path / "out").batch([3, 17])
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == (2, 2, 16, 16) and std.min() > 0


def test_broken_files_are_listed_and_left_out(folder, vae, tmp_path, capsys):
    """Catches one bad file among a million that ends the encoding, shifts labels, or goes without a word."""
    for name in ("cat/02.png", "dog/19.png"):
        (folder / name).write_text("no image")
    encode(ImageFolder(folder, 16), vae, tmp_path / "out", batch_size=3, cpu=True)
    data = Latents(tmp_path / "out")
    assert len(data) == 18
    left = [index for index in range(20) if index not in (2, 19)]
    torch.testing.assert_close(
        data.batch(range(18))[0], encode_pixels(vae, pixels(ImageFolder(folder, 16), left)), rtol=0, atol=1e-5
    )
    assert data.batch(range(18))[2].tolist() == [0] * 5 + [1] * 13
    assert [line.split(":")[0] for line in (tmp_path / "out/train-broken.txt").read_text().splitlines()] == [
        "cat/02.png",
        "dog/19.png",
    ]
    assert "cannot be read: 2" in capsys.readouterr().out


def test_a_shard_of_broken_files_is_empty_and_nothing_left_is_an_error(folder, vae, tmp_path):
    for path in sorted(folder.rglob("*.png"))[8:16]:
        path.write_text("no image")
    encode(ImageFolder(folder, 16), vae, tmp_path / "out", cpu=True)
    assert len(Latents(tmp_path / "out")) == 12 and Latents(tmp_path / "out").batch([8, 11])[2].tolist() == [1, 1]
    for path in folder.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(ValueError, match=r"none of the 20 images can be read; the first: cat/00\.png"):
        encode(ImageFolder(folder, 16), vae, tmp_path / "none", cpu=True)
    assert not list((tmp_path / "none").glob("*.safetensors"))


def test_an_interrupted_encoding_goes_on(folder, vae, tmp_path, monkeypatch):
    """Catches a half-written shard that counts, and shards that are encoded twice."""
    images = ImageFolder(folder, 16)
    encode(images, vae, tmp_path / "whole", batch_size=3, cpu=True)
    read = ImageFolder.__getitem__

    def stop_at(self, index):
        if index == 13:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(ImageFolder, "__getitem__", stop_at)
    with pytest.raises(KeyboardInterrupt):
        encode(images, vae, tmp_path / "out", batch_size=3, cpu=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train-00000-of-00003.safetensors"]
    with pytest.raises(FileNotFoundError, match="1 of 3"):
        Latents(tmp_path / "out")
    asked = []
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, index: (asked.append(index), read(self, index))[1])
    encode(images, vae, tmp_path / "out", batch_size=3, cpu=True)
    assert asked == list(range(8, 20))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_shards_of_something_else_are_not_continued(folder, vae, tmp_path):
    """Catches a set whose halves come from two encoders, which no later step would notice."""
    images = ImageFolder(folder, 16)
    encode(images, vae, tmp_path / "out", cpu=True)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="encoder"):
        encode(images, small_autoencoder(8, 8, latent_channels=8, block=4), tmp_path / "out", cpu=True)
    with pytest.raises(ValueError, match="encoder"):  # another split's latents lie in the same space, or nowhere
        encode(images, small_autoencoder(8, 8, latent_channels=8, block=4), tmp_path / "out", "validation", cpu=True)
    encode(images, vae, tmp_path / "out", "validation", cpu=True)
    with pytest.raises(ValueError, match="mirror False"):
        encode(images, vae, tmp_path / "out", mirror=True, cpu=True)
    with pytest.raises(ValueError, match="other images"):  # the same files, but no classes
        encode(ImageFolder(folder, 16, classes="none"), vae, tmp_path / "out", cpu=True)
    before = (folder / "dog/19.png").read_bytes()
    Image.new("RGB", (60, 40)).save(folder / "dog/19.png")  # drawn anew under its old name
    with pytest.raises(ValueError, match="other images"):
        encode(ImageFolder(folder, 16), vae, tmp_path / "out", cpu=True)
    (folder / "dog/19.png").write_bytes(before)
    (folder / "dog/19.png").unlink()
    with pytest.raises(ValueError, match="images 20"):
        encode(ImageFolder(folder, 16), vae, tmp_path / "out", cpu=True)
    with pytest.raises(ValueError, match="multiple of 4"):
        encode(ImageFolder(folder, 18), vae, tmp_path / "other", cpu=True)


def test_the_name_of_a_split_may_begin_as_anothers(folder, vae, tmp_path):
    """Catches shards of `train-big` that are counted among those of `train`."""
    for split in ("train", "train-big"):
        encode(ImageFolder(folder, 16), vae, tmp_path / "out", split, cpu=True)
    assert len(Latents(tmp_path / "out")) == len(Latents(tmp_path / "out", "train-big")) == len(ImageFolder(folder, 16))


@pytest.mark.forked
def test_two_processes_write_the_shards_of_one(folder, vae, tmp_path, monkeypatch):
    """Catches shards that depend on who encodes them, and doubled or lost ones."""
    monkeypatch.setattr(encoding, "SHARD", 2048)
    rng = np.random.default_rng(1)
    images = np.repeat(rng.integers(0, 255, (41, 3, 16, 16), np.uint8), 100, axis=0)  # 3 shards
    from train import avatars
    from train.latents.images import DrawnImages

    avatars.save(tmp_path, "train", avatars.Split(images, np.arange(4100) % 16, np.arange(4100)))
    vae.save_pretrained(tmp_path / "vae")
    torch.set_num_threads(1)  # as the launcher gives each process
    encode(DrawnImages(tmp_path, "train"), vae, tmp_path / "one", cpu=True)
    arguments = [tmp_path, "--vae", tmp_path / "vae", "--out", tmp_path / "two", "--cpu"]
    done = [child.wait() for child in start_together(run_command, "train.latents", list(map(str, arguments)))]
    stdout, stderr = ("".join(getattr(each, name) for each in done) for name in ("stdout", "stderr"))
    assert [each.returncode for each in done] == [0, 0], stderr
    assert "process 1 of 2" in stderr and stdout.count("images 4100, shards 3") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "two")) == 3


def test_balance_repeats_small_classes(folder, vae, tmp_path):
    """A class of 1,024 and one of 16. Catches weights by frequency itself, and images that are never drawn."""
    labels = np.array([0] * 1024 + [1] * 16)
    order = balanced(labels, 0.5)
    counts = np.bincount(labels[order])
    assert counts.tolist() == [1024, 16 * 8]  # each image by 1/sqrt(n): sqrt(1024 / 16) = 8
    assert np.unique(order).tolist() == list(range(1040))
    assert np.bincount(labels[balanced(labels, 1)]).tolist() == [1024, 1024]
    assert balanced(labels, 0.0).tolist() == list(range(1040))
    uneven = np.bincount(balanced(np.array([0] * 9 + [1] * 4), 0.5))  # each of four images 1.5 times
    assert uneven.tolist() == [1] * 9 + [1, 2, 1, 2]

    encode(ImageFolder(folder, 16), vae, tmp_path / "out", mirror=True, balance=1.0, cpu=True)
    data = Latents(tmp_path / "out")
    assert len(data) == 2 * 28
    assert np.bincount(data.batch(range(56))[2]).tolist() == [28, 28]


def test_a_class_may_be_read_more_often(folder, vae, tmp_path):
    """On top of balance and with mirror images. Catches another class's images, and a name that nobody has."""
    for balance, counts in ((0.0, [3 * 6, 14]), (1.0, [3 * 14, 14])):
        out = tmp_path / f"{balance}"
        encode(ImageFolder(folder, 16), vae, out, mirror=True, balance=balance, cpu=True)
        data = Latents(out, repeats={"cat": 3})
        assert np.bincount(data.batch(range(len(data)))[2]).tolist() == [2 * n for n in counts]
    with pytest.raises(ValueError, match="no class is called 'cow'; there are cat, dog"):
        Latents(out, repeats={"cow": 2})
    with pytest.raises(ValueError, match="cat needs a whole number of at least 1, not 0"):
        Latents(out, repeats={"cat": 0})


def sparse_shard(path: Path, images: int, shape: tuple[int, ...]) -> int:
    """A shard of zeros that takes no room on the disk; its size in bytes."""
    header, end = {"__metadata__": {"id2label": "{}"}}, 0
    for name, kind, dims, item in (
        ("mean", "F32", [images, *shape], 4),
        ("std", "F32", [images, *shape], 4),
        ("labels", "I64", [images], 8),
    ):
        start, end = end, end + int(np.prod(dims)) * item
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [start, end]}
    text = json.dumps(header).encode().ljust(1024)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_stays_flat_while_a_large_set_is_read_at_random(tmp_path):
    """1 GB of shards. Catches a reader that holds them in memory, or every shard that it once touched.

    Pages of a mapped file are not counted: they are the system's cache, clean, and dropped when memory is wanted.
    """
    shape, per_shard = (4, 32, 32), 1024
    total = sum(sparse_shard(tmp_path / f"train-{i:05}-of-00032.safetensors", per_shard, shape) for i in range(32))
    assert total > 1_000_000_000
    data, rng = Latents(tmp_path), np.random.default_rng(0)
    data.batch(rng.integers(len(data), size=64))
    before = anonymous_memory()
    for _ in range(60):
        mean, _, _ = data.batch(rng.integers(len(data), size=64))
    assert mean.shape == (64, *shape)
    assert anonymous_memory() - before < 16 * 2**20


def test_every_row_is_prefetched_before_it_is_read(tmp_path, monkeypatch):
    """Catches a thread that waits for one page after the other of a set that is not in memory yet."""
    prefetched = []

    class Watched(mmap.mmap):
        def madvise(self, advice, *span):
            if advice == mmap.MADV_WILLNEED:
                prefetched.append(span)
            super().madvise(advice, *span)

    monkeypatch.setattr(mmap, "mmap", Watched)
    shape, row = (4, 32, 32), 4 * 32 * 32 * 4
    sparse_shard(tmp_path / "train-00000-of-00001.safetensors", 8, shape)
    Latents(tmp_path).batch([5, 2])
    starts = [8 + 1024 + part * 8 * row + index * row for part in (0, 1) for index in (2, 5)]  # mean, then std
    for (page, length), start in zip(sorted(prefetched), starts, strict=True):
        assert page % mmap.PAGESIZE == 0 and start - mmap.PAGESIZE < page <= start and page + length == start + row


@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_cached_is_what_the_shards_hold(tmp_path, monkeypatch, mirror):
    """Catches a row of another shard, of the other mirror image, or of another class."""
    shape, prefixes = (4, 2, 2), ["", "mirror_"] if mirror else [""]
    meta = {"id2label": json.dumps({0: "a", 1: "b"})}
    for number, count in enumerate((3, 5)):
        rows = {f"{prefix}{name}": torch.randn(count, *shape) for prefix in prefixes for name in ("mean", "std")}
        save_file(
            rows | {"labels": torch.arange(count) % 2},
            tmp_path / f"train-{number:05}-of-00002.safetensors",
            metadata=meta,
        )
    data, cached = (Latents(tmp_path, repeats={"b": 2}) for _ in range(2))
    cached.cache()
    monkeypatch.setattr(dataset.Shard, "prefetch", None)  # of `cached`, nothing is read row by row
    indices = torch.randperm(len(data)).tolist()
    got = cached.batch(indices)
    monkeypatch.undo()
    for ours, theirs in zip(got, data.batch(indices), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_a_set_too_large_for_memory_stays_on_disk(tmp_path, monkeypatch):
    sparse_shard(tmp_path / "train-00000-of-00001.safetensors", 8, (4, 2, 2))
    monkeypatch.setattr(dataset, "CACHE_LIMIT", 8 * 2 * 4 * 4 * 4 - 1)  # a byte less than the means and deviations
    data = Latents(tmp_path)
    data.cache()
    assert not data.cached


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts Linux's open files")
def test_a_set_of_more_shards_than_files_may_be_open_is_read(tmp_path):
    """A mapped file is an open one: ImageNet has 626 shards, and macOS allows 256."""
    import resource

    for i in range(32):
        sparse_shard(tmp_path / f"train-{i:05}-of-00032.safetensors", 1, (4, 2, 2))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    now_open = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now_open + 8, limits[1]))
        assert len(Latents(tmp_path)) == 32
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
