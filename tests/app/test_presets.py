"""Presets and how long they take: what is said is what was measured, or nothing."""

from dataclasses import replace

import pytest

from app.common.presets import preset_of
from app.engine.engine import Engine
from app.engine.request import Request
from app.engine.speed import Speeds
from app.generate.presets import PRESETS, preset_choices
from mdt_core.guidance import guidance_weight
from tests.helpers.stand_in import StandInPipeline

REQUEST = Request("a", class_labels=(0,), seeds=(0,))


@pytest.fixture
def engine() -> Engine:
    return Engine({"a": "A", "b": "B"}, device="cpu", load=lambda _: StandInPipeline(seconds=0.01))


def test_the_paper_preset_is_the_papers_setting() -> None:
    """Catches a skipped pass, another sampler or weight in what is called the paper's."""
    request = replace(REQUEST, **PRESETS["Paper"])
    assert (request.sampler, request.num_inference_steps, request.skip_tolerance) == ("ddpm", 250, 0)
    assert request.evaluations == [2] * 250
    assert guidance_weight(0, request.guidance_scale, request.guidance_power).item() == pytest.approx(3.8)


def test_a_request_is_known_as_its_preset() -> None:
    """Catches a picker that still says "Paper" after its steps were changed, and one that forgets "Balanced"."""
    assert preset_of(REQUEST, PRESETS) == "Balanced"
    assert (
        preset_of(replace(REQUEST, guidance_scale=1.5), PRESETS) == "Balanced"
    )  # that preset leaves the guidance alone
    for name, preset in PRESETS.items():
        request = replace(REQUEST, **preset)
        assert preset_of(request, PRESETS) == name
        assert preset_of(replace(request, num_inference_steps=7), PRESETS) is None
    assert preset_of(replace(REQUEST, skip_unconditional=False), PRESETS) is None


def test_nothing_is_said_before_a_run_has_told(engine: Engine) -> None:
    """Catches an invented figure, and one of another model."""
    assert [label for label, _ in preset_choices(engine, REQUEST)] == ["Fast", "Balanced", "Paper"]
    engine.warm("a")
    labels = [label for label, _ in preset_choices(engine, REQUEST)]
    assert [label.split(" · ")[0] for label in labels] == ["Fast", "Balanced", "Paper"]
    assert all(label.endswith(("s", "min")) for label in labels)
    assert [label for label, _ in preset_choices(engine, replace(REQUEST, model="b"))] == ["Fast", "Balanced", "Paper"]


def test_what_is_said_is_what_runs_took(engine: Engine) -> None:
    """A step of the stand-in takes 10 ms whatever it evaluates: catches a figure off by the evaluations or images."""
    for _ in engine.run((REQUEST,)):
        pass
    assert 0.25 <= engine.seconds(REQUEST) < 0.6
    twice = replace(REQUEST, class_labels=(0, 0), seeds=(0, 1))
    assert engine.seconds(twice) == pytest.approx(2 * engine.seconds(REQUEST))
    engine._pipe.seconds = 0.02  # a batch of two takes longer
    for _ in engine.run((twice,)):
        pass
    assert engine.seconds(twice) >= 0.5  # measured by itself now


def test_a_run_that_was_stopped_tells_nothing(engine: Engine) -> None:
    """Catches the figure of a first step, which is slow, taken for all of them."""
    frames = engine.run((REQUEST,))
    next(frames)
    frames.close()
    assert engine.seconds(REQUEST) is None


def test_the_latest_run_counts_half() -> None:
    """Catches a figure that one slow run beside other work decides, and one that never follows the machine."""
    speeds = Speeds()
    speeds.record("a", 1, 10, 1.0)
    speeds.record("a", 1, 10, 3.0)
    assert speeds.estimate("a", 1, 10) == pytest.approx(2.0)
    assert speeds.estimate("a", 4, 20) == pytest.approx(16.0)
    assert speeds.estimate("b", 1, 10) is None
