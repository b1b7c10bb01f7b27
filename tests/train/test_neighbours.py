"""Nearest training images: found by brute force too, and rates that tell a copier from an honest model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu

from mdt_core.pipeline.labelled_grid import LABEL_LINE, LEAST_GAP, MARGIN
from tests.helpers.fast_judge import FastJudge
from train import neighbours
from train.evaluate import features, samples
from train.evaluate.sources import ImageSet
from train.neighbours import SIDE


@pytest.mark.parametrize("rows", [2048, 7])
def test_neighbours_agree_with_brute_force(monkeypatch, rows):
    """In one piece and in many. Would catch indices without their piece's offset, neighbours lost where pieces meet,
    and uint8 differences that wrap around."""
    monkeypatch.setattr(neighbours, "ROWS", rows)
    rng = np.random.default_rng(0)
    queries, points = (rng.integers(0, 256, (n, 4, 3), np.uint8) for n in (16, 30))
    points[23] = queries[5]
    found = neighbours.nearest(queries, points, k=4)
    apart = queries[:, None].astype(float) - points[None]
    expected = np.sqrt((apart**2).mean((2, 3)))
    np.testing.assert_array_equal(found.indices, expected.argsort(1)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(expected, 1)[:, :4], atol=1e-6)
    assert found.distances[5, 0] == 0 and found.indices[5, 0] == 23


def test_rates_of_a_copier_and_of_an_honest_model():
    """Would catch a threshold at the wrong end, and a rate that counts held-out images in place of samples."""
    rng = np.random.default_rng(0)
    training, held_out, honest = (rng.normal(size=(n, 5)) for n in (500, 2000, 2000))
    copies = np.concatenate([training[:400] + 1e-4, honest[:600]])

    def distances(x):
        return neighbours.nearest(x, training).distances[:, 0]

    apart = distances(held_out)
    assert neighbours.copy_rate(distances(honest), apart) == pytest.approx(0.05, abs=0.015)
    assert neighbours.copy_rate(distances(copies), apart) == pytest.approx(0.4 + 0.6 * 0.05, abs=0.015)
    assert neighbours.nearer_than_held_out(distances(honest), apart) == pytest.approx(0.5, abs=0.02)
    assert neighbours.nearer_than_held_out(distances(copies), apart) == pytest.approx(0.4 + 0.6 * 0.5, abs=0.02)


def test_nearer_than_held_out_is_mann_whitneys_u():
    """With ties. Would catch ties counted whole, and the two sets swapped."""
    a, b = torch.tensor([1.0, 2, 2, 5]), torch.tensor([2.0, 3, 0, 2, 7])
    u = mannwhitneyu(b.numpy(), a.numpy()).statistic
    assert neighbours.nearer_than_held_out(a, b) == pytest.approx(u / 20)


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Thirty flat training images, held-out ones between them, and samples of which every other is a copy."""
    monkeypatch.setattr(features, "EffLite0", FastJudge)

    def write(name, greys):
        images = np.broadcast_to(np.array(greys, np.uint8)[:, None, None, None], (len(greys), 6, 6, 3))
        samples.write(tmp_path / f"{name}.npz", ImageSet(np.ascontiguousarray(images)))

    write("training", range(0, 240, 8))
    write("held-out", range(3, 240, 8))
    write("samples", [16, 37, 80, 101])
    return tmp_path


def call(folder, words=""):
    command = f"--samples {folder}/samples.npz --training {folder}/training.npz --out {folder}/out/near.png {words}"
    neighbours.main([*command.split(), "--device", "cpu", "--data", str(folder)])


def test_the_command_draws_and_reports(sets, capsys):
    call(sets, f"--held-out {sets}/held-out.npz --neighbours 2 --rows 3")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["pixels"] == {
        "median distance": 0,
        "median distance, held-out": 3,
        "copy rate": 0.5,  # the copies; the other two are as far as held-out images
        "copy rate, drawing anew": 0.05,
        "nearer than held-out": 0.75,
        "nearer than held-out, drawing anew": 0.5,
    }
    assert report["EffLite0"]["copy rate"] == 0.5
    # rows from the nearest sample to the farthest; columns: sample, its two nearest in pixels, then in features
    picture = np.asarray(Image.open(sets / "out/near.png"))
    step = SIDE + LEAST_GAP
    columns = (MARGIN, MARGIN + step + 2 * LEAST_GAP, MARGIN + 2 * step + 2 * LEAST_GAP)
    top = MARGIN + LABEL_LINE + SIDE // 2
    tiles = [picture[top::step, left + SIDE // 2][:3, 0].tolist() for left in columns]
    assert tiles[0][0] in (16, 80) and tiles[0][2] in (37, 101)
    assert tiles[1][0] == tiles[0][0]  # the copied training image
    assert abs(tiles[1][2] - tiles[0][2]) == 3 and abs(tiles[2][2] - tiles[0][2]) == 5


def test_held_out_images_that_training_holds_too_raise_what_is_expected():
    """A tenth of what is drawn anew is in the training set already, and was dropped from the held-out images."""
    rng = np.random.default_rng(0)
    training, held_out = rng.normal(size=(300, 5)), rng.normal(size=(900, 5))
    drawn = np.concatenate([training[:100], rng.normal(size=(900, 5))])
    space = neighbours.Space("pixels", drawn, training, held_out, dropped=100)
    report = neighbours.describe(space, neighbours.nearest(drawn, training))
    for figure in ("copy rate", "nearer than held-out"):
        assert report[figure] == pytest.approx(report[f"{figure}, drawing anew"], abs=0.02)
    assert report["copy rate, drawing anew"] == pytest.approx(0.1 + 0.9 * 0.05)


def test_a_device_without_float64_leaves_the_search_to_the_cpu():
    """Apple's GPUs have no float64."""
    points = np.random.default_rng(0).normal(size=(20, 5))
    ours, theirs = (neighbours.nearest(points[:3], points, 2, device) for device in ("mps", "cpu"))
    assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.distances, theirs.distances)


def test_without_held_out_images_there_is_no_rate(sets, capsys):
    """Would catch a rate against nothing."""
    call(sets)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["held-out"] is None
    assert list(report["pixels"]) == ["median distance"]


def test_what_cannot_be_compared_is_refused(sets, capsys):
    for words, message in (("--neighbours 31", "of 30 training images"), ("--rows 0", "1 or more")):
        with pytest.raises(SystemExit):
            call(sets, words)
        assert message in capsys.readouterr().err.splitlines()[-1]
    samples.write(sets / "samples.npz", ImageSet(np.zeros((2, 8, 8, 3), np.uint8)))
    with pytest.raises(SystemExit):
        call(sets)
    assert "images need one size" in capsys.readouterr().err.splitlines()[-1]
