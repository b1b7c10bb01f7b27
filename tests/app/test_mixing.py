"""Mixes of classes: what the controls ask for, what requests and recipes hold of it, and how people read it."""

import dataclasses

import pytest

from app.common import recipes
from app.common.classes.mixing import mix_named, mix_text, mixed, split
from app.common.classes.picker import for_model
from app.common.stage import caption
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from tests.helpers.stand_in import StandInPipeline, draw

INFO = ModelInfo("avatars", "MDTv2", 10, {0: "circle", 1: "square", 2: "star"}, 32, 8, 4, True, "cpu")
OTHER = dataclasses.replace(INFO, name="other", labels={0: "star", 1: "circle"})
MIX = ((0, 0.6), (2, 0.4))


def test_two_classes_and_a_share_are_a_mix() -> None:
    """Catches a share of the wrong class, and a mix at the ends of the slider, where there is one class alone."""
    assert mixed(0, 2, 0.4) == MIX
    assert [mixed(0, 2, share) for share in (0, 1)] == [0, 2]
    assert mixed(1, 1, 0.5) == 1
    assert mixed(None, 2, 0.25) == ((None, 0.75), (2, 0.25))
    for wrong in (-0.1, 1.1, float("nan"), None, True):
        with pytest.raises(ValueError, match=r"^How much of the second class must be a number from 0 to 1"):
            mixed(0, 2, wrong)


@pytest.mark.parametrize(
    "label", [1, None, MIX, ((2, 0.35), (0, 0.65)), ((None, 0.2), (1, 0.8)), ((1, 0.8), (None, 0.2))]
)
def test_the_controls_show_what_was_drawn(label: object) -> None:
    """Catches a mix that comes back turned around."""
    assert mixed(*split(label)) == label
    assert split(((0, 1), (1, 3), (2, 1.0)))[1:] == (1, 0.75)  # of three the two that weigh most


def test_a_mix_is_written_as_it_is_read() -> None:
    """Catches a weight that loses digits, and a third class that the page cannot show."""
    labels = {0: "circle", 1: "a, b: c", 2: "star"}
    for mix in (MIX, ((1, 0.1 + 0.2), (0, 3.0))):
        assert mix_named(mix_text(mix, labels), labels) == mix
    assert mix_named("star", labels) == 2
    with pytest.raises(ValueError, match="a mix is of two classes here"):
        mix_named("circle:1,star:1,a, b: c:1", labels)
    with pytest.raises(ValueError, match="no class is called 'nobody'"):
        mix_named("nobody", labels)


def test_another_model_keeps_the_mixes_that_it_can_draw() -> None:
    """Catches a mix by numbers, which are other classes there."""
    chosen = [0, "circle:1,star:2", "square:1,star:1"]
    assert for_model(OTHER, chosen, before=INFO)["value"] == [1, "circle:1,star:2"]


def test_a_mix_comes_back_from_its_recipe() -> None:
    """Catches weights that are rounded, a class of another model by its number, and words that nobody can read."""
    recipe = recipes.of_image(Request("avatars", (1, MIX), (7, 8)), 1, INFO)
    assert recipe["class_name"] == "circle 60% + star 40%" and recipe["class_label"] is None
    assert recipe["class_mix"][1] == {"class_label": 2, "class_name": "star", "weight": 0.4}
    assert recipes.to_request(recipe, INFO) == (Request("avatars", (MIX,), (8,)), [])
    request, notes = recipes.to_request(recipe, OTHER)
    assert request.class_labels == (((1, 0.6), (0, 0.4)),) and notes == ["made with another model, 'avatars'"]
    request, notes = recipes.to_request(recipe, dataclasses.replace(INFO, labels={0: "star"}))
    assert request.class_labels == (0,) and notes == ["avatars has no class 'circle'"]


def test_a_mix_of_many_is_brought_to_the_two_that_the_page_can_show() -> None:
    """Catches "the same picture again" where the page would draw another one."""
    recipe = recipes.of_image(Request("avatars", (((0, 1), (1, 4), (2, 4)),), (7,)), 0, INFO)
    request, notes = recipes.to_request(recipe, INFO)
    assert request.class_labels == (((1, 0.5), (2, 0.5)),)
    assert notes == ["of its mix (circle 11% + square 44% + star 44%) the two classes that weigh most are taken"]


PART = {"class_label": 0, "class_name": "circle", "weight": 1}


@pytest.mark.parametrize(
    "mix",
    [
        *(None, 5, "circle", {}, [], [PART] * 1000, [None], [{}], [PART | {"weight": float("nan")}]),
        *([PART | {"weight": weight}] for weight in (-1, "1", True, 10**400, [], 0, None)),
    ],
)
def test_a_mix_from_a_stranger_does_no_harm(mix: object) -> None:
    """Catches TypeError, KeyError and OverflowError, and a mix of thousands."""
    recipe = recipes.of_image(Request("avatars", (1,), (7,)), 0, INFO) | {"class_mix": mix}
    assert recipes.to_request(recipe, INFO) == (Request("avatars", (None,), (7,)), ["its mix of classes is not usable"])


def test_the_engine_reads_and_draws_a_mix() -> None:
    """Catches a mix that the API cannot ask for, and one drawn of another model's classes."""
    engine = Engine({"a": "A", "b": "B"}, device="cpu", load=lambda _: StandInPipeline())
    label = engine.class_label("a", "circle:3, golden retriever:1")
    assert label == ((0, 3), (2, 1)) and engine.class_label("a", "1:2") == 1
    assert caption(label, engine.describe("a").labels) == "circle 75% + golden retriever 25%"
    with pytest.raises(ValueError, match="no class is called 'dot'"):
        engine.class_label("a", "circle:1,dot:1")
    request = Request("a", (label,), (5,), num_inference_steps=2)
    named = dataclasses.replace(
        request, class_labels=(((8, 3), (9, 1)),), class_names=(("circle", "golden retriever"),)
    )
    first, second = (draw(engine, each)[0].tobytes() for each in (request, named))
    assert first == second != draw(engine, dataclasses.replace(request, class_labels=(0,)))[0].tobytes()
    with pytest.raises(ValueError, match="a has no class 9"):
        draw(engine, dataclasses.replace(request, class_labels=(((0, 1), (9, 1)),)))
