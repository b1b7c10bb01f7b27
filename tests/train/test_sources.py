"""What a SOURCE of the command line stands for, and that every command reads a folder of pictures alike."""

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_core import autoencoder
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from tests.helpers.tiny import tiny_pipeline
from train import avatars, neighbours
from train.evaluate import features, samples, sources
from train.latents.dataset import Latents
from train.latents.images import read_square


def picture(label: int, seed: int) -> np.ndarray:
    return np.random.default_rng([label, seed]).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, label in (("b/2.png", 2), ("a/1.PNG", 1), ("0.png", 0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(label, 0)).save(path)
    (tmp_path / "notes.txt").write_text("not an image")
    found = sources.read(str(tmp_path), tmp_path)
    np.testing.assert_array_equal(found.images, [picture(label, 0) for label in range(3)])
    assert found.labels is None


def test_a_transparent_file_is_seen_as_training_sees_it(tmp_path):
    """Would catch the colour behind transparency, often black, in place of white."""
    for name, alpha in (("0.png", 0), ("1.png", 255)):
        Image.new("RGBA", (8, 8), (10, 20, 30, alpha)).save(tmp_path / name)
    found = sources.read(str(tmp_path), tmp_path).images
    assert found[0][0, 0].tolist() == [255, 255, 255] and found[1][0, 0].tolist() == [10, 20, 30]


def test_avatars_are_read_by_split(tmp_path):
    """Would catch images handed on as (N, 3, H, W)."""
    from safetensors.numpy import save_file

    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 6), dtype=np.uint8)
    (tmp_path / "avatars").mkdir()
    numbers = np.arange(4)
    meta = {"id2label": '{"0": "big-ears", "1": "clay", "2": "moods", "3": "stack"}'}
    path = tmp_path / "avatars/test.safetensors"
    save_file({"images": images, "labels": numbers, "seeds": numbers}, path, metadata=meta)
    found = sources.read("avatars:test", tmp_path)
    assert found.images.shape == (4, 8, 6, 3)
    np.testing.assert_array_equal(found.images[3, 5, 4], images[3, :, 5, 4])
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert found.names[0] == "big-ears"


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    """Among them a pickle, which runs code when opened."""

    class Malicious:
        def __reduce__(self):
            return (tmp_path / "opened").touch, ()

    np.savez(tmp_path / "pickle.npz", arr_0=np.array([Malicious()], object))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 8, 8, 3)))
    np.savez(tmp_path / "latents.npz", moments=np.zeros(3))
    np.savez(tmp_path / "good.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for side in (8, 9):
        Image.new("RGB", (side, 8)).save(tmp_path / f"mixed/{side}.png")
    refusals = {
        "pickle.npz": "allow_pickle=False",
        "floats.npz": "must be uint8",
        "latents.npz": "holds moments, but no images",
        "cut.npz": "its end is missing",
        "empty": "holds no images",
        "mixed": r"mixes sizes \(8x8 and 9x8 at 9.png\)",
        "nothing": "neither SET:SPLIT",
    }
    for name, message in refusals.items():
        with pytest.raises(ValueError, match=message) as refusal:
            sources.read(str(tmp_path / name), tmp_path)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "opened").exists()
    with pytest.raises(ValueError, match="train, validation, test"):
        sources.read("avatars:tests", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m train\.avatars"):
        sources.read("avatars:test", tmp_path)


def test_a_built_set_may_lie_in_a_folder_of_another_name(tmp_path):
    """As `avatars-128` beside `avatars`: each is judged against its own split."""
    image = np.full((1, 3, 8, 8), 7, np.uint8)
    avatars.save(tmp_path / "avatars-8", "test", avatars.Split(image, np.zeros(1, np.int64), np.zeros(1, np.int64)))
    assert sources.read("avatars-8:test", tmp_path).images.tolist() == image.transpose(0, 2, 3, 1).tolist()
    with pytest.raises(FileNotFoundError, match=r"avatars-8/train\.safetensors is missing"):
        sources.locate("avatars-8:train", tmp_path)


def test_a_drawn_set_by_its_path_and_without_its_split(tmp_path):
    """Would catch a set outside of --data that needs a link, and a set's folder taken for one without images."""
    image = np.full((1, 3, 8, 8), 7, np.uint8)
    avatars.save(tmp_path / "elsewhere", "test", avatars.Split(image, np.zeros(1, np.int64), np.zeros(1, np.int64)))
    assert len(sources.read(f"{tmp_path}/elsewhere:test", tmp_path / "data").images) == 1
    with pytest.raises(ValueError, match=r"name its split too, as .*elsewhere:test"):
        sources.locate(f"{tmp_path}/elsewhere", tmp_path / "data")


# ---- every command reads a folder of pictures alike


SIDE = 32


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """All that a folder may hold: pictures hidden, broken, turned, transparent, behind a link, and of no known kind."""
    monkeypatch.chdir(tmp_path)
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    noise = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for _ in range(14)]
    for i in range(9):
        noise[i].save(folder / f"more/{i:02}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    noise[9].save(folder / "turned.jpg", exif=turned)
    noise[10].putalpha(Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE).astype(np.uint8)))
    noise[10].save(folder / "clear.png")
    noise[11].save(folder / "scan.tif")
    for name in (".hidden.png", "no-image.heic", "thumbs.db"):
        (folder / name).write_bytes(b"not one of them")
    noise[12].save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:-900])
    (tmp_path / "linked").mkdir()
    noise[13].save(tmp_path / "linked/last.png")
    (folder / "zz").symlink_to(tmp_path / "linked")
    return folder


NAMES_READ = ["clear.png", *(f"more/{i:02}.png" for i in range(9)), "scan.tif", "turned.jpg", "zz/last.png"]
LEFT_OUT = "left out, for they cannot be read: 1\n    cut.png: "


@pytest.fixture
def looks(monkeypatch):
    """The images that each command looks at, one array a set."""
    looks = []

    class Judge(FastJudge):
        def __call__(self, images):
            looks.append(np.asarray(images))
            return super().__call__(images)

    monkeypatch.setattr(features, "EffLite0", Judge)
    return looks


@pytest.mark.parametrize("size", [SIDE, 16])
def test_every_command_reads_one_set_from_a_folder(photos, looks, capsys, monkeypatch, size):
    """Encoding's own set and messages are the measure. Would catch a command with a list of suffixes of its own, hidden
    files read, links not followed, photos left lying on their side, and a broken file that ends it or goes unnamed."""
    pipe = tiny_pipeline(std=0.02)
    pipe.vae.save_pretrained("vae")
    run_command("train.latents", f"photos --size {size} --classes none --vae vae --out latents --cpu".split())
    assert LEFT_OUT in capsys.readouterr().out
    means = Latents("latents").batch(range(len(NAMES_READ)))[0]
    pictures = [np.asarray(read_square(photos / name, size)) for name in NAMES_READ]

    def encoded(images: np.ndarray) -> torch.Tensor:
        return autoencoder.encode(pipe.vae, torch.tensor(images).permute(0, 3, 1, 2) / 127.5 - 1)

    with torch.no_grad():
        torch.testing.assert_close(means, encoded(np.stack(pictures)), atol=1e-4, rtol=0)

    cut = [] if size == SIDE else ["--size", str(size)]  # they are of this size as they are
    device = ["--device", "cpu", "--data", "data"]
    run_command("train.evaluate", ["--samples", "photos", "--reference", "photos", *cut, *device])
    assert capsys.readouterr().out.count(LEFT_OUT) == 2
    run_command("train.evaluate", ["--floor", "--reference", "photos", *cut, *device])
    assert LEFT_OUT in capsys.readouterr().out
    neighbours.main(["--samples", "photos", "--training", "photos", "--out", "near.png", *cut, *device])
    assert capsys.readouterr().out.count(LEFT_OUT) == 2
    for images in looks:
        np.testing.assert_array_equal(images, pictures)
    assert len(looks) == 2  # the reference and the samples; its features are kept


def test_inpaintings_measure_reads_the_same_set(photos, looks, capsys, monkeypatch):
    """In the size that the model draws. Without classes: they are painted with the null class."""
    monkeypatch.setattr(samples, "load_pipeline", lambda model, device: tiny_pipeline(std=0.02))
    call = "--model m --images photos --reference photos --num-images 13 --calls 2 --masks box --methods blend"
    run_command("train.inpainting", [*call.split(), "--device", "cpu", "--out", "out"])
    assert capsys.readouterr().out.count(LEFT_OUT) == 2
    pictures = [np.asarray(read_square(photos / name, SIDE)) for name in NAMES_READ]
    np.testing.assert_array_equal(looks[0], pictures)
    with pytest.raises(SystemExit):
        run_command("train.inpainting", ["--model", "m", "--images", "photos", "--device", "cpu"])
    assert "--reference is missing" in capsys.readouterr().err


def test_a_folder_of_broken_files_is_refused_alike(photos, capsys):
    for path in photos.rglob("*.*"):
        path.write_bytes(b"no image")
    (photos / "zz/last.png").write_bytes(b"no image")
    tiny_pipeline().vae.save_pretrained("vae")
    encode = "photos --size 16 --classes none --vae vae --out latents --cpu"
    commands = {"train.latents": encode, "train.evaluate": "--samples photos --reference photos --device cpu"}
    refusals = []
    for package, arguments in commands.items():
        with pytest.raises(SystemExit):
            run_command(package, arguments.split())
        refusals.append(capsys.readouterr().err.splitlines()[-1].partition(": ")[2].partition(" (see ")[0])
    assert refusals[0] == refusals[1]
    assert refusals[0].startswith("none of the 14 images can be read; the first: clear.png")
