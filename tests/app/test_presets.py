"""Presets and how long they take: what is said is what was measured, or nothing."""

import time
from dataclasses import replace

import pytest

from app.common.presets import Presets, own_settings, preset_choices, preset_of
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.speed import Speeds
from app.generate.presets import describe_preset, presets_for
from app.inpaint.request import InpaintRequest
from mdt_core.guidance import guidance_weight
from mdt_core.pipeline.settings import sampling_presets
from tests.helpers.stand_in import StandInPipeline

REQUEST = Request("a", class_labels=(0,), seeds=(0,))
TUNED = {"num_inference_steps": 8, "guidance_scale": 1.8, "presets": {"fast": {"num_inference_steps": 4}}}


@pytest.fixture
def engine() -> Engine:
    """Model "b" carries settings of its own."""

    def load(location: str) -> StandInPipeline:
        pipe = StandInPipeline(seconds=0.01)
        pipe.sampling_presets = sampling_presets(TUNED if location == "B" else None)
        return pipe

    return Engine({"a": "A", "b": "B"}, device="cpu", load=load)


@pytest.fixture
def plain(engine: Engine) -> ModelInfo:
    return engine.describe("a")


@pytest.fixture
def tuned(engine: Engine) -> ModelInfo:
    return engine.describe("b")


@pytest.fixture
def presets(plain: ModelInfo) -> Presets:
    return presets_for(plain)


def test_the_slow_preset_of_a_model_without_own_ones_is_the_papers_setting(presets: Presets) -> None:
    """Catches a skipped pass, another sampler or weight in what is called the paper's."""
    request = replace(REQUEST, **presets["Slow"])
    assert (request.sampler, request.num_inference_steps, request.skip_tolerance) == ("ddpm", 250, 0)
    assert request.evaluations == [2] * 250
    assert guidance_weight(0, request.guidance_scale, request.guidance_power).item() == pytest.approx(3.8)
    assert "The paper's settings" in describe_preset("Slow", presets)


def test_a_request_is_known_as_its_preset(presets: Presets) -> None:
    """Catches a picker that still says "Slow" after its steps were changed, and one that forgets "Balanced"."""
    assert preset_of(REQUEST, presets) == "Balanced"
    for name, preset in presets.items():
        request = replace(REQUEST, **preset)
        assert preset_of(request, presets) == name
        assert preset_of(replace(request, num_inference_steps=7), presets) is None
    assert preset_of(replace(REQUEST, skip_unconditional=False), presets) is None


def test_presets_are_the_models_own(plain: ModelInfo, tuned: ModelInfo) -> None:
    """Catches presets of another model, and figures that are not in the words."""
    assert preset_of(Request.first(tuned), presets_for(tuned)) == "Balanced"
    assert [presets_for(tuned)[name]["num_inference_steps"] for name in ("Fast", "Balanced", "Slow")] == [4, 8, 250]
    assert "dpm++, 4 steps, scale 1.8, power 4" in describe_preset("Fast", presets_for(tuned))
    assert "paper" not in describe_preset("Slow", presets_for(tuned))  # whose guidance is another


def test_another_model_brings_its_own_settings(plain: ModelInfo, tuned: ModelInfo) -> None:
    """Catches sliders that stay where the model before had them, a preset that is lost, and a change undone."""

    def settings(request: Request) -> Request:
        return replace(request, **own_settings(request, plain, tuned, presets_for))

    assert settings(Request.first(plain)) == replace(Request.first(tuned), model="a")
    fast = settings(replace(REQUEST, **presets_for(plain)["Fast"]))
    assert preset_of(fast, presets_for(tuned)) == "Fast"
    changed = settings(replace(REQUEST, guidance_scale=2.5))
    assert (changed.num_inference_steps, changed.guidance_scale) == (8, 2.5)
    many = replace(REQUEST, sampler="ddpm", num_inference_steps=900)
    assert settings(many).num_inference_steps == 900
    back = replace(Request.first(tuned), num_inference_steps=900, sampler="ddpm")
    assert own_settings(back, tuned, plain, presets_for)["guidance_scale"] == 3.8


def test_weights_for_few_steps_stay_with_the_models_that_have_them(plain: ModelInfo, tuned: ModelInfo) -> None:
    """Catches a switch left on for a model without such weights, which then draws nothing."""
    able = replace(tuned, distilled=True)
    chosen = replace(REQUEST, distilled=True, guidance_scale=1.5)
    assert own_settings(chosen, able, able, presets_for)["distilled"] is True
    assert own_settings(chosen, able, plain, presets_for)["distilled"] is False


def test_nothing_is_said_before_a_run_has_told(engine: Engine, presets: Presets) -> None:
    """Catches an invented figure, and one of another model."""
    names = list(presets)
    assert [label for label, _ in preset_choices(engine, REQUEST, presets)] == names
    engine.warm("a")
    labels = [label for label, _ in preset_choices(engine, REQUEST, presets)]
    assert [label.split(" · ")[0] for label in labels] == names
    assert all(label.endswith(("s", "min")) for label in labels)
    assert [label for label, _ in preset_choices(engine, replace(REQUEST, model="b"), presets)] == names


def test_a_warm_up_tells_for_a_batch_and_for_inpainting(engine: Engine) -> None:
    """A step of the stand-in takes as long for four pictures as for one. Catches a batch that is said to take four
    times as long, and an Inpaint tab that says nothing before its first run."""
    engine.warm("a")
    four = replace(REQUEST, class_labels=(0,) * 4, seeds=(0,) * 4)
    assert engine.seconds(four) < 2 * engine.seconds(REQUEST)
    inpainting = InpaintRequest("a", (0,), (0,))
    assert engine.seconds(inpainting) == pytest.approx(
        engine.seconds(REQUEST) * sum(inpainting.evaluations) / sum(REQUEST.evaluations)
    )


def test_what_is_said_is_what_runs_took(engine: Engine) -> None:
    """A step of the stand-in takes 10 ms whatever it evaluates: catches a figure off by the evaluations or images."""
    start = time.perf_counter()
    for _ in engine.run((REQUEST,)):
        pass
    assert 0.25 <= engine.seconds(REQUEST) <= time.perf_counter() - start
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
    speeds.record("a", 1, 10, 0.5)
    assert speeds.estimate("a", 1, 10) == pytest.approx(0.5), "the times of a machine that was busy once stay"
