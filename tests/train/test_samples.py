"""Sampling runs: one seed an image, finished images kept, and files that are what they say."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from train.evaluate import samples, sources
from train.evaluate.grid import class_grid

NAMES = ("cat", "dog", "owl")
SAMPLING = samples.Sampling(
    weights="w",
    num_images=11,
    first_seed=100,
    num_inference_steps=5,
    sampler="dpm++",
    guidance_scale=2.0,
    guidance_power=4.0,
)


def picture(label: int, seed: int) -> np.ndarray:
    return np.random.default_rng([label, seed]).integers(0, 256, (8, 8, 3), dtype=np.uint8)


class Pipeline:
    """Stands in for the pipeline: a picture of noise from class and seed; fails after `patience` batches."""

    num_classes, id2label, lora = 3, dict(enumerate(NAMES)), None

    def __init__(self, patience: int = 1000, weight: float = 0.0) -> None:
        self.drawn: list[int] = []
        self.patience = patience
        self.components = {"transformer": torch.nn.Linear(2, 2), "scheduler": None}
        torch.nn.init.constant_(self.components["transformer"].weight, weight)
        torch.nn.init.zeros_(self.components["transformer"].bias)

    def __call__(self, class_labels, seeds, **settings):
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        self.drawn += seeds
        images = [Image.fromarray(picture(*key)) for key in zip(class_labels, seeds, strict=True)]
        return type("Output", (), {"images": images})


def draw(pipe, folder, batch_size=4, processes=1, sampling=SAMPLING):
    samples.claim(folder, sampling)
    todo = samples.missing(folder, sampling.num_images)
    for process in reversed(range(processes)):
        samples.draw(pipe, sampling, folder, samples.share(todo, batch_size, process, processes), progress=False)
    return samples.pack(folder, sampling, pipe.num_classes, NAMES)


def test_image_i_has_seed_i_and_class_i_modulo_classes(tmp_path):
    found = draw(Pipeline(), tmp_path / "run")
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    for i, image in enumerate(found.images):
        np.testing.assert_array_equal(image, picture(i % 3, 100 + i))


def test_a_model_without_classes_is_sampled_without_labels(tmp_path):
    """Would catch a remainder by zero."""

    class Unconditional(Pipeline):
        num_classes = 0

        def __call__(self, class_labels, seeds, **settings):
            assert set(class_labels) == {None}
            return super().__call__([0] * len(seeds), seeds, **settings)

    found = draw(Unconditional(), tmp_path / "run")
    assert found.labels is None and len(found.images) == 11


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (4, 2), (3, 5), (64, 3)])
def test_batches_and_processes_change_nothing(tmp_path, batch_size, processes):
    """Would catch images lost or drawn twice where the last batch is short or a process has nothing to do."""
    pipe = Pipeline()
    found = draw(pipe, tmp_path / "one", batch_size, processes)
    np.testing.assert_array_equal(found.images, draw(Pipeline(), tmp_path / "other").images)
    assert sorted(pipe.drawn) == list(range(100, 111))


def test_one_process_claims_the_folder_for_all_and_in_one_piece(tmp_path, monkeypatch):
    """Would catch processes that read what another has just emptied, and a note that a kill leaves half written."""
    claimed, claim = [], samples.claim
    monkeypatch.setattr(samples, "claim", lambda *given: claimed.append(index) or claim(*given))
    for index in (0, 1):
        state = SimpleNamespace(num_processes=2, process_index=index, is_main_process=index == 0)
        state.wait_for_everyone, state.main_process_first = lambda: None, nullcontext
        samples.draw_together(Pipeline(), SAMPLING, tmp_path, 4, state)
    assert claimed == [0]

    whole = Path.write_text

    def cut_short(path, text):
        whole(path, text[:9])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", cut_short)
    with pytest.raises(OSError, match="full"):
        claim(tmp_path, SAMPLING)
    monkeypatch.undo()
    claim(tmp_path, SAMPLING)


def test_an_interrupted_run_goes_on(tmp_path):
    """Would catch finished images drawn anew, and a half-written one taken for finished."""
    with pytest.raises(KeyboardInterrupt):
        draw(Pipeline(patience=2), tmp_path / "run")
    (tmp_path / "run/.000009.png.partial").write_bytes(b"half an image")
    pipe = Pipeline()
    found = draw(pipe, tmp_path / "run", batch_size=2)
    assert pipe.drawn == [108, 109, 110]
    np.testing.assert_array_equal(found.images, draw(Pipeline(), tmp_path / "whole").images)


def test_more_images_keep_those_that_are_there(tmp_path):
    draw(Pipeline(), tmp_path / "run")
    pipe = Pipeline()
    draw(pipe, tmp_path / "run", sampling=replace(SAMPLING, num_images=13))
    assert pipe.drawn == [111, 112]


@pytest.mark.parametrize("change", [{"weights": "v"}, {"guidance_scale": 2.5}, {"first_seed": 0}])
def test_a_run_of_other_settings_is_not_continued(tmp_path, change):
    """Would catch images of two models mixed in one file."""
    draw(Pipeline(), tmp_path / "run")
    with pytest.raises(ValueError, match="another model or other settings"):
        samples.claim(tmp_path / "run", replace(SAMPLING, **change))


def test_settings_that_no_pipeline_takes_are_refused_before_a_folder_is_made():
    """Would catch a misspelt sampler that is found by the first batch."""
    with pytest.raises(ValueError, match='no sampler is called "dmp'):
        replace(SAMPLING, sampler="dmp++")


def test_a_folder_with_other_things_is_not_claimed(tmp_path):
    """Would catch holiday photographs among the samples, or removed with them."""
    (tmp_path / "000001.png").write_bytes(b"")
    with pytest.raises(ValueError, match="new or empty"):
        samples.claim(tmp_path, SAMPLING)


def test_a_run_that_failed_before_its_first_image_leaves_no_claim(tmp_path):
    """Would catch a command stopped at once that bars the next, with other settings."""
    with pytest.raises(KeyboardInterrupt):
        draw(Pipeline(patience=0), tmp_path / "run", sampling=replace(SAMPLING, sampler="ddim"))
    assert len(draw(Pipeline(), tmp_path / "run").images) == 11


def test_fingerprint_changes_with_a_weight():
    assert samples.weights_fingerprint(Pipeline()) == samples.weights_fingerprint(Pipeline())
    assert samples.weights_fingerprint(Pipeline()) != samples.weights_fingerprint(Pipeline(weight=1e-6))


def test_the_file_is_the_adm_evaluators(tmp_path):
    """Would catch NCHW, floats, or labels under another name."""
    found = draw(Pipeline(), tmp_path / "run")
    path = tmp_path / "deep/samples.npz"
    assert not samples.is_finished(path, SAMPLING)
    samples.write(path, found, SAMPLING)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_0"].shape == (11, 8, 8, 3)
        assert arrays["arr_1"].tolist() == [i % 3 for i in range(11)]
    assert samples.is_finished(path, SAMPLING)
    assert [p.name for p in path.parent.iterdir()] == ["samples.npz"]

    again = sources.read(str(path), tmp_path)
    np.testing.assert_array_equal(again.images, found.images)
    assert again.names == NAMES


def test_a_finished_file_of_other_images_is_not_overwritten(tmp_path):
    path = tmp_path / "samples.npz"
    samples.write(path, draw(Pipeline(), tmp_path / "run"), SAMPLING)
    with pytest.raises(ValueError, match="delete it or name another"):
        samples.is_finished(path, replace(SAMPLING, num_images=12))
    for path in (tmp_path / "foreign.npz", tmp_path / "notes.npz"):
        np.savez(path, arr_0=np.zeros(3)) if path.stem == "foreign" else path.write_text("my notes")
        with pytest.raises(ValueError, match="delete it or name another"):
            samples.is_finished(path, SAMPLING)


# ---- the grid


def test_the_grid_has_a_row_per_class_and_its_first_images(tmp_path):
    """Every tile is looked up by its pixels. Would catch classes as columns, or rows that mix classes."""
    images = np.zeros((7, 64, 64, 3), np.uint8)
    images[:] = (np.arange(7) * 30)[:, None, None, None]  # image i is grey 30 i
    labels = np.arange(7) % 3  # class 0: images 0, 3, 6
    grid = class_grid(sources.ImageSet(images, labels, NAMES), per_class=2)
    pixels, corners = np.asarray(grid.image)[..., 0], [[grid.corner(r, c) for c in range(2)] for r in range(3)]
    assert [[pixels[y + 32, x + 32] for x, y in row] for row in corners] == [[0, 90], [30, 120], [60, 150]]
    assert len(pixels) - corners[2][0][1] - 64 == corners[0][0][1]  # and no fourth row below
    for ((x, y), _), name in zip(corners, NAMES, strict=True):
        assert pixels[y : y + 64, : x - 1].min() < 128, name  # before every row


def test_a_grid_does_without_names_and_labels():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    grid = class_grid(sources.ImageSet(images, np.array([0, 5])))
    assert grid.size == (64, 64) and grid.corner(1, 0)  # two rows, enlarged by a whole factor
    rows = class_grid(sources.ImageSet(images))
    assert rows.corner(0, 1) and rows.size == (64, 64)
    with pytest.raises(IndexError):
        rows.corner(1, 0)
