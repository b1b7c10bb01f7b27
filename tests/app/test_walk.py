"""The Walk tab: frames in their order, a film that holds its recipe, and recipes of strangers."""

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from app.common import recipes
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.ui import build
from app.walk.request import TOGETHER, WalkRequest, from_recipe, to_recipe
from app.walk.tab import Walk, WalkJob, film
from tests.helpers.stand_in import StandInPipeline

INFO = ModelInfo("shapes", "MDTv2", 10, {0: "circle", 1: "square", 2: "star"}, 32, 8, 4, True, "cpu")
REQUEST = WalkRequest("shapes", (0, 1), (3, 4), num_inference_steps=2, num_frames=11, seconds=1.0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())


@pytest.fixture(scope="module")
def tab(engine: Engine) -> Walk:
    owners = (getattr(event.fn, "__self__", None) for event in build(engine, Path("runs")).fns.values())
    return next(owner for owner in owners if isinstance(owner, Walk))


def test_frames_come_in_their_order_and_the_film_goes_there_and_back(engine: Engine, tab: Walk) -> None:
    """Catches batches that begin anew, and a film without its recipe."""
    job = WalkJob(REQUEST)
    assert [part.first_frame for part in job.requests] == [0, TOGETHER]
    frames = job.frames
    *_, last = tab.run(job)
    assert len({frame.tobytes() for frame in frames}) == job.done == 11
    assert job.frames == [], "a session would hold them for an hour"
    file = last[tab.save]["value"]
    opened = Image.open(file)
    assert (opened.format, opened.n_frames, opened.info["loop"]) == ("WEBP", 20, 0)
    assert from_recipe(recipes.read(file, "walk"), engine.describe("shapes")) == (REQUEST, [])


def test_a_walk_that_is_stopped_leaves_a_shorter_film(engine: Engine, tab: Walk) -> None:
    """Catches frames that are lost with the last ones."""
    job = WalkJob(REQUEST)
    job.start(engine.describe("shapes"))
    assert tab.save not in tab.finish(job)
    for step in engine.run(job.requests[:1]):
        job.add(step)
    stopped = tab.finish(job)
    assert Image.open(stopped[tab.save]["value"]).n_frames == 14 and "Stopped after 8 of 11" in stopped[tab.status]


def test_a_film_of_one_frame_is_a_picture() -> None:
    """Catches an empty list where there is no way back."""
    assert film([Image.new("RGB", (8, 8))], 0.1, to_recipe(REQUEST, INFO))[:4] == b"RIFF"


def test_a_walk_that_makes_no_sense_is_refused(engine: Engine, tab: Walk) -> None:
    """Catches a film that flickers, and an empty seed that ends in a bare "Error"."""
    with pytest.raises(ValueError, match=r"no sampler of a walk 'ddpm': choose one of dpm\+\+, ddim"):
        WalkRequest("shapes", (0, 1), (3, 4), sampler="ddpm")
    with pytest.raises(ValueError, match="number of frames must be a whole number from 2 to 64, not 1"):
        WalkRequest("shapes", (0, 1), (3, 4), num_frames=1)
    with pytest.raises(gr.Error, match="The seed must be a whole number"):
        sampling = ("dpm++", 2, 999, 3.8, 4.0, "class", 999, 0)
        tab.begin(engine.describe("shapes"), "shapes", 0, 1, 3, None, *sampling, 4, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        *({"from": end} for end in (None, 5, "circle", {}, [], {"class_label": 0, "class_name": "circle"})),
        *({"to": {"class_label": 0, "class_name": "circle", "seed": seed}} for seed in (-1, "3", None, True, 10**30)),
    ],
)
def test_a_walk_from_a_stranger_is_refused_in_one_sentence(change: dict) -> None:
    """Catches KeyError and TypeError on what a stranger wrote."""
    with pytest.raises(ValueError, match=r"damaged|The seed must be"):
        from_recipe(to_recipe(REQUEST, INFO) | change, INFO)


def test_useless_settings_of_a_walk_are_named() -> None:
    """Catches a film of a million frames."""
    recipe = to_recipe(REQUEST, INFO) | {"num_frames": 10**6, "seconds": float("nan"), "sampler": "ddpm"}
    request, notes = from_recipe(recipe, INFO)
    assert (request.num_frames, request.seconds, request.sampler) == (16, 2.0, "dpm++")
    assert [note.split(" is ")[0] for note in notes] == ["its sampler of a walk", "its number of frames", "its length"]
