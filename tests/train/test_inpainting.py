"""The measurement of inpainting: masks, figures with known answers, and the command from pictures to the last line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_core import MDTPipeline
from mdt_core.inpainting import METHODS, Method
from mdt_core.pipeline.canvas import fit_canvas
from mdt_core.pipeline.labelled_grid import LABEL_LINE, LEAST_GAP, MARGIN
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from tests.helpers.tiny import tiny_pipeline
from train import avatars
from train.evaluate import features, samples
from train.evaluate.sources import ImageSet
from train.inpainting import masks as holes
from train.inpainting import measure, painters

FOLDER = Path(__file__).parents[2] / "assets" / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.png") if not path.stem.endswith("-mask"))


# ---- masks


def test_masks_cover_what_they_are_called_for():
    box, half, strokes = (holes.draw_masks(kind, 24, 64) for kind in holes.MASKS)
    assert (box.mean((1, 2)) == 1 / 4).all() and box[:, 16:48, 16:48].all()
    assert (half.mean((1, 2)) == 1 / 2).all()
    shares = strokes.mean((1, 2))
    assert shares.min() >= 0.2 and shares.max() <= 0.6 and shares.std() > 0.03
    assert len(np.unique(strokes, axis=0)) == holes.STROKE_MASKS
    np.testing.assert_array_equal(strokes, holes.draw_masks("strokes", 24, 64))  # the same in every run


def test_batches_share_a_mask():
    """Would catch a batch across two masks: its second part would be repainted under the first one's."""
    masks = holes.draw_masks("strokes", 20, 32)
    runs = list(holes.batches(masks, 2))
    assert [i for run in runs for i in range(20)[run]] == list(range(20))
    assert all((masks[run] == masks[run.start]).all() and len(masks[run]) <= 2 for run in runs)
    assert len(list(holes.batches(masks, 20))) == holes.STROKE_MASKS


# ---- figures


def noise(count: int = 6, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 180, (count, size, size, 3), dtype=np.uint8)


def test_seam_ratio_of_a_raised_hole():
    """A slope of 2 grey levels a pixel, raised by 2 in the half: jumps of 4 for 2. Catches a border one pixel off."""
    slope = np.broadcast_to(2 * np.arange(16, dtype=np.uint8)[:, None], (3, 16, 16, 3))
    half = holes.draw_masks("half", 3, 16)
    raised = slope + np.uint8(2) * half[..., None]
    assert measure.seam_ratio(raised, slope, half).value == 4
    assert measure.seam_ratio(raised, slope, half).error == 0  # every picture alike
    assert measure.seam_ratio(slope, slope, half).value == 1


def test_only_the_border_makes_a_seam():
    originals, box = noise(), holes.draw_masks("box", 6, 16)
    changed = originals.copy()
    changed[:, 6:10, 6:10] = 0  # deep inside: the box is 4:12
    changed[:, :2] = 0
    assert measure.seam_ratio(changed, originals, box).value == 1
    changed[:, 4] += 60
    assert measure.seam_ratio(changed, originals, box).value > 1.2


def seen(maps: np.ndarray) -> features.Features:
    return features.Features(maps[:, :1, 0, 0], maps.reshape(len(maps), -1), maps[:, :1, 0, 0])


def test_hole_distance_looks_into_the_hole_only():
    maps = np.random.default_rng(0).normal(size=(6, 2, 8, 8))
    box, elsewhere = holes.draw_masks("box", 6, 16), maps.copy()
    elsewhere[:, :, :2] += 9
    assert measure.hole_distance(seen(elsewhere), seen(maps), box) == 0
    assert measure.hole_distance(seen(np.roll(maps, 1, axis=0)), seen(maps), box) == pytest.approx(1)
    half = 0.5 * (maps + np.roll(maps, 1, axis=0))
    assert measure.hole_distance(seen(half), seen(maps), box) == pytest.approx(0.5)


def test_grown_masks_are_what_a_paste_can_change():
    """Catches a seam that is looked for where nothing is pasted."""
    masks = holes.draw_masks("box", 3, 16)
    assert (holes.grown(masks, 0) == masks).all()
    canvas = fit_canvas(noise()[0], masks[0], 16, cell=4, grow=2, feather=1)
    changed = (canvas.paste(torch.ones(3, 16, 16)) != canvas.picture).any(-1)
    assert (changed <= holes.grown(masks, 2)[0]).all()
    assert (holes.grown(masks, 2)[0] == canvas.reach()).all() and changed.sum() > 0.9 * canvas.reach().sum()


def test_outside_difference_is_the_largest_of_all():
    originals, box = noise(), holes.draw_masks("box", 6, 16)
    changed = np.where(box[..., None], np.uint8(0), originals)
    assert measure.outside_difference(changed, originals, box) == 0
    changed[3, 0, 0, 1] -= 7  # unsigned arithmetic would make it 249
    assert measure.outside_difference(changed, originals, box) == 7


# ---- methods


def test_variants_are_parsed():
    assert painters.parse_method("mdt") == METHODS["mdt"]
    changes = "handover=500,repeats=3,jump=2,window=0.5-0.9,sampler=ddim,first_timestep=800,ring=0.5"
    trajectory = {"sampler": "ddim", "first_timestep": 800}
    assert painters.parse_method(f"blend:{changes}") == Method(
        **trajectory, repeats=3, jump=2, window=(0.5, 0.9), handover=500, ring=0.5
    )
    assert painters.parse_method("mdt:predicted=no") == replace(METHODS["mdt"], predicted=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lama", "lama"),
        ("mdt:colour=3", "no colour"),
        ("mdt:repeats=many", "'many' is no repeats"),
        ("mdt:window=0.5", "window"),
        ("mdt:predicted=perhaps", "'perhaps' is no predicted"),
    ],
)
def test_unknown_methods_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        painters.parse_method(text)


@pytest.mark.parametrize("method", [*METHODS.values(), Method(repeats=5, window=(0, 1))])
@pytest.mark.parametrize("calls", [1, 20, 100])
def test_every_method_has_the_same_calls(method, calls):
    """Would catch a method that wins by being asked more often."""
    steps = painters.steps_within(calls, method)
    assert method.calls(steps) <= calls < method.calls(steps + 1)


# ---- pictures


@pytest.fixture(scope="module")
def pipe() -> MDTPipeline:
    return tiny_pipeline(std=0.02)


@pytest.mark.parametrize("kind", ["class", "mask"])
def test_a_batch_of_pictures_is_what_the_pipeline_makes_of_each(pipe, kind):
    """The measurement goes round the pipeline for speed: would catch settings, seeds or masks that differ from it."""
    originals = ImageSet(noise(size=32), np.array([0, 1, 2, 0, 1, 2]))
    box = holes.draw_masks("box", 6, 32)
    settings = {"num_inference_steps": 5, "guidance_scale": 3.0, "guidance_power": 2.0, "guidance_kind": kind}
    settings |= {"grow": 0, "feather": 0}
    painting = painters.Painting("", "", "box", METHODS["mdt"], **settings)
    painted = painters.paint(pipe, painting, originals, box, batch_size=4)
    for i in (0, 5):
        alone = pipe.inpaint(originals.images[i], box[i], int(originals.labels[i]), method="mdt", seeds=i, **settings)
        assert np.abs(np.asarray(alone.images[0], int) - painted[i]).max() <= 1
    assert measure.outside_difference(painted, originals.images, box) == 0
    assert (painted != originals.images)[box].mean() > 0.9


@pytest.mark.parametrize("name", painters.WITHOUT_MODEL)
def test_what_needs_no_model_fills_the_hole(pipe, name):
    """On one grey all over: the mean is that grey, Telea's fill nearly, whatever stood in the hole."""
    if name == "telea":
        pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    box, images = holes.draw_masks("box", 3, 32), np.full((3, 32, 32, 3), 77, np.uint8)
    images[box] = noise(3, 32)[box]
    painting = painters.Painting("", "", "box", name, 0, 1.0, 1.0, "class", 0, 0)
    painted = painters.paint(pipe, painting, ImageSet(images, np.zeros(3, int)), box, batch_size=2)
    assert measure.outside_difference(painted, images, box) == 0
    if name == "autoencoder":
        assert (painted != images)[box].mean() > 0.9
    else:
        assert np.abs(painted.astype(int) - 77).max() <= (4 if name == "telea" else 0)


# ---- the command


@pytest.fixture
def here(tmp_path, monkeypatch, pipe) -> Path:
    """An empty folder and small stand-ins for model, judge and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "load_pipeline", lambda model, device: pipe)
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    images = np.ascontiguousarray(noise(12, 32).transpose(0, 3, 1, 2))
    for split in ("validation", "test"):
        avatars.save(tmp_path / "data" / "avatars", split, avatars.Split(images, np.arange(12) % 3, np.arange(12)))
    return tmp_path


COMMAND = "--model m --num-images 8 --calls 4 --masks box --methods mdt blend autoencoder --out out --device cpu"


def call(capsys, command: str = COMMAND) -> dict:
    run_command("train.inpainting", command.split())
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_command_reports(here, capsys):
    report = call(capsys)
    rows = {row["images"]: row for row in report["figures"]}
    assert set(rows) == {"real"} | {f"{m}, {k}" for m in ("mdt", "blend", "autoencoder") for k in ("box", "mean")}
    assert rows["real"]["seam"] == 1 and rows["real"]["excess"] == rows["real"]["distance"] == 0
    assert all(row["outside"] == 0 for row in rows.values())
    assert rows["blend, box"]["excess"] == pytest.approx(
        rows["blend, box"]["KID-EffLite0"] - rows["real"]["KID-EffLite0"]
    )
    assert max(report["calls"].values()) <= 4 and report["calls"]["autoencoder"] == 0
    assert json.loads(Path("out/report.json").read_text()) == report
    width, height = (n * 128 + (n - 1) * LEAST_GAP + 2 * MARGIN for n in (5, 4))  # columns and rows of the grid
    assert Image.open("out/grid.png").size == (width, height + LABEL_LINE)


def test_the_same_command_again_paints_nothing(here, capsys, monkeypatch):
    first = call(capsys)
    monkeypatch.setattr(painters, "paint", None)
    assert call(capsys) == first


def test_results_of_other_settings_are_not_taken_for_these(here, capsys):
    call(capsys)
    with pytest.raises(SystemExit) as error:
        call(capsys, f"{COMMAND} --scale 3")
    assert error.value.code == 2
    assert "delete it or name another file" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["--num-images 3", "--num-images 13", "--methods lama"])
def test_wrong_calls_end_with_one_line(here, capsys, change):
    with pytest.raises(SystemExit) as error:
        call(capsys, f"{COMMAND} {change}")
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- the examples that come along


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_drawn_from_seeds_that_no_training_saw(path):
    """STYLE-SEED.png is that avatar, or the upper part of it: would catch a picture of the training range."""
    pytest.importorskip("dicebear", reason="dicebear-core is not installed")
    style, _, seed = path.stem.rpartition("-")
    picture = np.asarray(Image.open(path))
    assert avatars.FIRST_SEED["validation"] <= int(seed) < avatars.FIRST_SEED["test"]
    drawn = avatars.render(style, int(seed), picture.shape[1])[: len(picture)]
    assert np.abs(drawn.astype(int) - picture).max() <= 2
    assert path.stat().st_size < 40_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_come_with_a_mask_that_fits(path):
    mask = np.asarray(Image.open(path.with_name(f"{path.stem}-mask.png"))) > 127
    fit_canvas(np.asarray(Image.open(path)), mask, size=128, cell=8)  # refuses an empty, full or too small one


def test_examples_are_four_and_of_other_sizes_than_the_model():
    assert len(EXAMPLES) == 4
    assert len({Image.open(path).size for path in EXAMPLES} - {(128, 128)}) == 4
