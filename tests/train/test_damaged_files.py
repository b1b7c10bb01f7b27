"""A file that a command line names, or finds in a folder that it names, may be cut short, damaged or something else.

Each is refused in one sentence that names it and says what to do. Would catch the reader's own error: a traceback, or a
sentence that leaves open which of many files is meant.
"""

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdt_core.runs import Run, read_rows
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from tests.helpers.tiny import tiny_pipeline
from train import avatars
from train.autoencoder import generated
from train.autoencoder.config import DecoderConfig
from train.distill import trajectories
from train.evaluate import features, judging, samples, sources
from train.latents import encode
from train.latents.dataset import Latents
from train.latents.images import read_names

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
NUMBERS = np.arange(12) % 3
STATISTICS = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(2)}
SAMPLING = samples.Sampling(weights="w", num_images=12, first_seed=0)
SHARD = {"mean": torch.randn(12, 4, 2, 2), "std": torch.rand(12, 4, 2, 2), "labels": torch.from_numpy(NUMBERS)}
NAMED = {"id2label": '{"0": "cat", "1": "dog", "2": "owl"}', "made_of": "{}"}

# What reads a kind of file -> a good one in a folder, and the reading of it.
Case = tuple[Path, Callable[[], object]]


def image_file(folder: Path) -> Case:
    samples.write(path := folder / "images.npz", sources.ImageSet(IMAGES, NUMBERS, ("cat", "dog", "owl")))
    return path, lambda: sources.read(str(path), folder)


def statistics(folder: Path) -> Case:
    np.savez(path := folder / "statistics.npz", **STATISTICS)
    judge = FastJudge(None)
    judge.name = "Inception"
    return path, lambda: judging.open_reference(str(path), judge, folder)


def finished_run(folder: Path) -> Case:
    samples.write(path := folder / "drawn.npz", sources.ImageSet(IMAGES), SAMPLING)
    return path, lambda: samples.is_finished(path, SAMPLING)


def kept_features(folder: Path) -> Case:
    features.cached(folder / "features", FastJudge(None), IMAGES)
    return next(folder.glob("features/*")), lambda: features.cached(folder / "features", FastJudge(None), IMAGES)


def picture_of_a_run(folder: Path) -> Case:
    samples.claim(folder, SAMPLING)
    for index, image in enumerate(IMAGES):
        samples.Image.fromarray(image).save(samples.image_path(folder, index))
    return samples.image_path(folder, 3), lambda: samples.pack(folder, SAMPLING, 3, ("cat", "dog", "owl"))


def note_of_a_run(folder: Path) -> Case:
    samples.claim(folder, SAMPLING)
    (folder / "000000.png").write_bytes(b"")
    return folder / "sampling.json", lambda: samples.claim(folder, SAMPLING)


def drawn_set(folder: Path) -> Case:
    made = avatars.Split(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)), NUMBERS, NUMBERS)
    avatars.save(folder, "test", made, {"size": 8})
    return folder / "test.safetensors", lambda: avatars.load(folder, "test")


def drawn_set_that_goes_on(folder: Path) -> Case:
    path, _ = drawn_set(folder)
    return path, lambda: avatars.check_same(path, {"size": 8})


def latents(folder: Path) -> Case:
    save_file(SHARD, path := folder / "train-00000-of-00001.safetensors", metadata=NAMED)
    return path, lambda: Latents(folder)


def latents_that_go_on(folder: Path) -> Case:
    path, _ = latents(folder)
    return path, lambda: encode.check_same(folder, "train", [path], {})


def latents_to_be_counted(folder: Path) -> Case:
    save_file(SHARD, path := folder / "train-00000-of-00001.safetensors", metadata=NAMED | {"broken": "[]"})
    return path, lambda: encode.report(folder, "train", [path])


def names_of_classes(folder: Path) -> Case:
    (path := folder / "names.json").write_text('["cat", "dog"]')
    return path, lambda: read_names(path)


def configuration(folder: Path) -> Case:
    Run(folder).write_config({"training": {"steps": 10}})
    return folder / "config.json", lambda: Run(folder).config


def trajectories_of_a_teacher(folder: Path) -> Case:
    pipe = tiny_pipeline()
    settings = pipe.sampling_defaults.but(num_inference_steps=2)
    drawn = folder / "drawn"
    trajectories.draw_trajectories(pipe, settings, settings, 1, drawn)
    return drawn / "000000.safetensors", lambda: trajectories.draw_trajectories(pipe, settings, settings, 1, drawn)


def latents_for_a_decoder(folder: Path) -> Case:
    path, pipe = latents(folder)[0], tiny_pipeline()
    pipe.sampling_defaults = {"num_inference_steps": 2}
    save_file(SHARD | {"mean": torch.randn(12, *pipe.latent_shape)}, path, metadata=NAMED)
    data = Latents(folder)
    config = DecoderConfig(model="", latents="", data="", num_samples=1, num_round_trips=0, critic_weight=1.0)
    arguments = config, pipe, data, 12, folder / "drawn", torch.device("cpu")
    generated.generate(*arguments)
    return next(folder.glob("drawn/*")), lambda: generated.generate(*arguments)


CASES = (
    *(image_file, statistics, finished_run, kept_features, picture_of_a_run, note_of_a_run),
    *(drawn_set, drawn_set_that_goes_on, latents, latents_that_go_on, latents_to_be_counted),
    *(names_of_classes, configuration, trajectories_of_a_teacher, latents_for_a_decoder),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_damaged_file_is_refused_by_name(case, tmp_path):
    path, read = case(tmp_path)
    read()
    good = path.read_bytes()
    lost = {b"", b"no such thing", b"\xff" * 40, b"[[", good[: len(good) // 2], good[:-40]}
    spoilt = {good[:at] + b"\xfe\x00\xff" + good[at + 3 :] for at in range(0, len(good), max(1, len(good) // 60))}
    for content in lost | spoilt:
        path.write_bytes(content)
        try:
            read()
        except ValueError as error:
            told = str(error)
            assert str(path) in told and "\n" not in told and ": " in told.partition(str(path))[2], told
        else:
            assert content not in lost


PICKLE = np.array([{}], object)
WRONG = {  # arrays of a kind that they should not be, and what is said of them
    "floats": ({"arr_0": IMAGES / 255}, "arr_0 must be uint8"),
    "nothing": ({"arr_0": IMAGES[:0]}, "arr_0 must be uint8"),
    "pickled": ({"arr_0": PICKLE}, "allow_pickle=False"),
    "labels as words": ({"arr_0": IMAGES, "arr_1": NUMBERS.astype(str)}, "arr_1 must be a whole number per image"),
    "few labels": ({"arr_0": IMAGES, "arr_1": NUMBERS[:3]}, "arr_1 must be a whole number per image"),
    "names as numbers": ({"arr_0": IMAGES, "arr_1": NUMBERS, "names": NUMBERS}, "names must be a list of texts"),
    "other arrays": ({"moments": IMAGES}, "holds moments, but no images"),
    "statistics as words": (STATISTICS | {"mu": np.array(["a"] * 3)}, "could not convert string to float"),
    "statistics of nothing": (STATISTICS | {"mu": np.full(3, np.nan)}, "not finite"),
    "statistics pickled": (STATISTICS | {"sigma_s": PICKLE}, "allow_pickle=False"),
}


@pytest.mark.parametrize("option", ["--samples", "--reference"])
@pytest.mark.parametrize("kind", [*WRONG, "cut short", "overwritten", "no arrays", "text"])
def test_the_command_ends_with_one_line_and_status_2(kind, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    arrays, message = WRONG.get(kind, ({"arr_0": IMAGES}, ""))
    np.savez("bad.npz", **arrays)
    np.savez("good.npz", arr_0=IMAGES)
    path = Path("bad.npz")
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "overwritten":
        path.write_bytes(path.read_bytes()[:300] + bytes(40) + path.read_bytes()[340:])
    elif kind == "no arrays":
        with ZipFile(path, "w") as file:
            file.writestr("arr_0.npy", b"no array")
    elif kind == "text":
        path.write_text("my notes")
    if "statistics" in kind and option == "--samples":
        message = "no images in arr_0"
    other = "--reference" if option == "--samples" else "--samples"
    with pytest.raises(SystemExit) as end:
        run_command("train.evaluate", [option, "bad.npz", other, "good.npz", "--device", "cpu"])
    told = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert told.startswith("python -m train.evaluate: bad.npz cannot be used (") and message in told
    assert "): make it anew, or name another (see" in told


def test_a_damaged_line_of_a_log_is_left_out(tmp_path):
    """As one cut short by a kill is. Would catch a run that nothing can show any more for one byte."""
    rows = [json.dumps({"step": 1}).encode(), b'{"step": "\xff"}', b"[" * 100_000, json.dumps({"step": 2}).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(rows))
    assert read_rows(tmp_path / "rows.jsonl") == [{"step": 1}, {"step": 2}]
