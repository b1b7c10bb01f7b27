"""The engine: requests are checked, frames tell the truth, closing stops the run, one model is in memory at a time."""

import dataclasses
import pickle
import threading
import time
from itertools import pairwise

import pytest

from app.engine.engine import Engine
from app.engine.frames import evenly_spaced
from app.engine.request import Request
from app.engine.settings import MAX_SEED
from mdt_core.samplers import sampling_timesteps
from tests.helpers.stand_in import StandInPipeline, draw

REQUEST = Request("a", class_labels=(0, 1), seeds=(5, 6), num_inference_steps=6)
ONE = dataclasses.replace(REQUEST, class_labels=(0,), seeds=(5,))


def make_engine(seconds: float = 0.0, **models: str) -> tuple[Engine, dict[str, StandInPipeline]]:
    """An engine over stand-ins, and the pipelines that it has loaded, by location."""
    loaded: dict[str, StandInPipeline] = {}

    def load(location: str) -> StandInPipeline:
        loaded[location] = StandInPipeline(seconds=seconds)
        return loaded[location]

    return Engine(models or {"a": "A"}, device="cpu", load=load), loaded


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_inference_steps": 0}, "steps for dpm.. must be a whole number from 1 to 250, not 0"),
        ({"num_inference_steps": 251}, "from 1 to 250, not 251"),
        ({"num_inference_steps": 1001, "sampler": "ddpm"}, "from 1 to 1000, not 1001"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({"num_inference_steps": True}, "whole number"),
        ({"seeds": (5, -1)}, "seed must be a whole number from 0"),
        ({"seeds": (5, MAX_SEED + 1)}, "seed must be"),
        ({"guidance_scale": 0.5}, "guidance scale must be a number from 1 to 10, not 0.5"),
        ({"guidance_scale": float("nan")}, "guidance scale"),
        ({"guidance_power": -0.01}, "guidance power must be a number from 0 to 8"),
        ({"guidance_power": "4"}, "guidance power"),
        ({"guidance_kind": "mixed"}, "There is no kind of guidance 'mixed': choose one of class, mask, both."),
        ({"guidance_high": 1000}, "The timestep where guidance begins must be a whole number from 0 to 999"),
        ({"guidance_power": float("inf")}, "guidance power"),
        ({"guidance_scale": 10**400}, "guidance scale must be a number from 1 to 10"),
        ({"sampler": "euler"}, "no sampler 'euler': choose one of dpm"),
        ({"class_labels": (), "seeds": ()}, "number of images must be a whole number from 1 to 16, not 0"),
        ({"class_labels": (0,) * 17, "seeds": (0,) * 17}, "not 17"),
        ({"class_labels": (0,)}, "1 classes were given for 2 seeds"),
    ],
)
def test_a_request_out_of_range_is_refused_in_one_sentence(change: dict, words: str) -> None:
    """Catches a bound that is off by one, NaN that passes a comparison, True taken for 1."""
    with pytest.raises(ValueError, match=words) as caught:
        dataclasses.replace(REQUEST, **change)
    assert "\n" not in str(caught.value)


def test_frames_count_the_steps_and_end_with_the_images() -> None:
    """Catches a missing last step, images before the end, previews of another batch size."""
    engine, _ = make_engine()
    frames = list(engine.run((REQUEST,)))
    assert [frame.index for frame in frames] == list(range(6))
    assert all(frame.total == 6 and len(frame.x_0) == len(frame.x_t) == 2 for frame in frames)
    assert [frame.images is not None for frame in frames] == [False] * 5 + [True]
    assert frames[-1].seconds_left == 0 < frames[0].seconds_left
    assert frames[0].x_0[0].tobytes() != frames[-1].x_0[0].tobytes() != frames[-1].x_0[1].tobytes()


def test_frames_can_cross_a_process_border() -> None:
    """On ZeroGPU they come from a forked worker: catches tensors, locks or closures inside a frame."""
    engine, _ = make_engine()
    for frame in engine.run((REQUEST,)):
        assert pickle.loads(pickle.dumps(frame)).index == frame.index


def test_the_images_of_a_request_are_one_batch() -> None:
    """Catches images that are drawn one after the other, and in another order than their seeds."""
    engine, loaded = make_engine()
    *_, last = engine.run((REQUEST,))
    assert loaded["A"].log.count("step 0") == 1
    singles = [list(engine.run((replace_one(i),)))[-1].images[0] for i in range(2)]
    assert [image.tobytes() for image in last.images] == [image.tobytes() for image in singles]


def replace_one(index: int) -> Request:
    """One image of REQUEST."""
    return dataclasses.replace(
        REQUEST, class_labels=REQUEST.class_labels[index : index + 1], seeds=REQUEST.seeds[index : index + 1]
    )


def test_several_requests_run_one_after_the_other() -> None:
    """Catches jobs that are mixed up: Compare puts a frame into the cell `request_index`."""
    engine, _ = make_engine()
    other = dataclasses.replace(REQUEST, seeds=(7, 8), num_inference_steps=3)
    frames = list(engine.run((REQUEST, other)))
    assert [frame.request_index for frame in frames] == [0] * 6 + [1] * 3
    assert frames[-1].images[0].tobytes() != frames[5].images[0].tobytes()


def test_closing_stops_within_a_step_and_frees_the_model() -> None:
    """Catches a run that goes on unseen after Stop, and a lock that is never given back."""
    engine, loaded = make_engine()
    frames = engine.run((ONE,))
    next(frames)
    next(frames)
    frames.close()
    assert loaded["A"].log == ["start", "step 0", "step 1", "closed"]
    assert len(list(engine.run((REQUEST,)))) == 6


def test_a_failing_run_frees_the_model() -> None:
    """Catches a lock held after an exception: the app would hang for everyone."""
    engine, loaded = make_engine()
    engine.describe("a")
    loaded["A"].stream = lambda **_: iter([None])  # breaks on the first step
    with pytest.raises(AttributeError):
        list(engine.run((REQUEST,)))
    del loaded["A"].stream
    assert len(list(engine.run((REQUEST,)))) == 6


def test_two_runs_at_once_take_turns() -> None:
    """Catches two runs interleaved on one model."""
    engine, loaded = make_engine(seconds=0.002)
    engine.describe("a")
    threads = [threading.Thread(target=lambda: list(engine.run((ONE,)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    once = ["start", *(f"step {i}" for i in range(6)), "closed"]
    assert loaded["A"].log == once * 3


def test_steps_may_run_on_changing_threads() -> None:
    """The web server takes each step on any of its threads: catches a lock that only its own thread can release."""
    engine, _ = make_engine()
    frames = engine.run((REQUEST,))
    next(frames)
    thread = threading.Thread(target=lambda: list(frames))
    thread.start()
    thread.join()
    assert len(list(engine.run((REQUEST,)))) == 6


def test_the_next_request_may_name_another_model() -> None:
    """Catches a model that is loaded again for every run, two in memory, and an unknown name."""
    engine, loaded = make_engine(a="A", b="B")
    assert engine.default == "a"
    list(engine.run((REQUEST,)))
    first = loaded.pop("A")
    list(engine.run((REQUEST,)))
    assert "A" not in loaded, "loaded twice"
    list(engine.run((dataclasses.replace(REQUEST, model="b"),)))
    assert "B" in loaded
    assert engine._pipe is loaded["B"] is not first
    with pytest.raises(ValueError, match="no model 'c': choose one of a, b"):
        list(engine.run((dataclasses.replace(REQUEST, model="c"),)))
    assert len(list(engine.run((REQUEST,)))) == 6, "the lock was not given back"


def test_a_run_longer_than_the_lent_gpu_is_refused_on_zero_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that is cut off on the way, and a limit on a machine of one's own."""
    engine, loaded = make_engine()
    long = Request("a", (0,) * 16, (0,) * 16, sampler="ddpm", num_inference_steps=1000)
    engine.check_time((long,))
    monkeypatch.setattr("app.engine.engine.ON_ZERO_GPU", True)
    engine.check_time((REQUEST,))
    with pytest.raises(ValueError, match="may take 140 s on the GPU, which is lent for 120 s at most: ask for fewer"):
        next(engine.run((long,)))
    assert not loaded, "a model was opened for it"


def test_a_class_that_the_model_has_not_is_told() -> None:
    """Catches a crash where a page still shows another model's classes."""
    engine, _ = make_engine()
    with pytest.raises(ValueError, match="a has no class 900"):
        list(engine.run((dataclasses.replace(ONE, class_labels=(900,)),)))


def test_a_model_that_cannot_be_opened_leaves_the_engine_usable() -> None:
    """Catches an engine that believes to hold a model whose loading failed."""
    engine, _ = make_engine(a="A", b="B")
    good = engine._load

    def load(location: str) -> StandInPipeline:
        if location == "B":
            raise ValueError("broken")
        return good(location)

    engine._load = load
    engine.describe("a")
    with pytest.raises(ValueError, match="broken"):
        engine.describe("b")
    assert len(list(engine.run((REQUEST,)))) == 6


def test_previews_are_drawn_only_as_often_as_they_can_be_shown() -> None:
    """250 quick steps: catches a preview for every one of them, and a trajectory without its ends."""
    engine, _ = make_engine()
    frames = list(engine.run((dataclasses.replace(REQUEST, num_inference_steps=250),)))
    drawn = [frame.index for frame in frames if frame.x_0 is not None]
    assert 50 <= len(drawn) <= 80
    assert {0, 249} <= {frame.index for frame in frames if frame.stored} <= set(drawn)


@pytest.mark.parametrize("total", [1, 2, 49, 50, 51, 250, 1000])
def test_kept_steps_are_spread_from_the_first_to_the_last(total: int) -> None:
    """Catches rounding that drops an end or keeps too many."""
    kept = sorted(evenly_spaced(total))
    assert kept[0] == 0
    assert kept[-1] == total - 1
    assert len(kept) == min(total, 50)
    gaps = [b - a for a, b in pairwise(kept)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_time_left_knows_that_guided_steps_cost_twice() -> None:
    """Early steps skip the unconditional branch: catches an estimate that takes them for typical."""
    costs = dataclasses.replace(REQUEST, num_inference_steps=25).evaluations
    assert costs[0] == 1
    assert costs[-1] == 2
    assert costs == sorted(costs)
    unconditional = dataclasses.replace(REQUEST, class_labels=(None, None))
    assert unconditional.evaluations == [1] * 6
    assert dataclasses.replace(unconditional, guidance_kind="mask").evaluations == REQUEST.evaluations
    part = dataclasses.replace(REQUEST, guidance_power=0.0, guidance_low=700, guidance_high=300)  # whichever is higher
    assert part.evaluations == [2 if 300 <= t <= 700 else 1 for t in sampling_timesteps(part.sampler, 6)]
    assert part.pipeline_arguments["guidance_low"] == 300


def test_a_class_is_found_by_name_and_by_index() -> None:
    """Catches an API that takes one form only."""
    engine, _ = make_engine()
    assert engine.class_label("a", "golden retriever") == engine.class_label("a", 2) == 2
    with pytest.raises(ValueError, match="class 9 is out of range"):
        engine.class_label("a", 9)


def test_a_checkpoint_that_was_replaced_draws_on_while_it_is_in_memory() -> None:
    """A training keeps few. Catches a model that is gone between a click and the next, and one that is read from where
    nothing is any more."""
    engine, loaded = make_engine(run="R", other="O")
    request = dataclasses.replace(REQUEST, model="run")
    draw(engine, request)
    del engine.models["run"]
    assert draw(engine, request) and len(loaded) == 1
    draw(engine, dataclasses.replace(request, model="other"))
    with pytest.raises(ValueError, match="There is no model 'run'"):
        draw(engine, request)


def test_a_device_that_is_not_there_is_told() -> None:
    """Catches a traceback of CUDA's on a mistyped --device."""
    for device in ("cudaa", "xpu:7"):
        with pytest.raises(ValueError, match=f"the device '{device}' cannot be used here"):
            Engine({"a": "A"}, device=device)


def test_warming_up_gives_way_to_a_visitor() -> None:
    """Catches a first click that waits until a warm-up of a slow model is over."""
    engine, loaded = make_engine(seconds=0.05)
    engine.describe("a")
    engine.warm_in_background("a")
    while not loaded["A"].log:
        time.sleep(0.001)
    start = time.perf_counter()
    next(engine.run((ONE,)))
    assert time.perf_counter() - start < 0.3  # the ten steps that are timed take 0.5 s
    engine._warming.join(5)
    assert not engine.warming and loaded["A"].log.count("start") < 4


def test_a_model_that_is_gone_before_it_is_warm_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a warm-up that ends in the log of the server."""
    ended = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    engine, _ = make_engine()
    engine.warm_in_background("gone")
    engine._warming.join(5)
    assert not ended and not engine.warming


def test_a_warm_up_sees_both_kinds_of_step_and_tells_the_time() -> None:
    """Catches guided steps that compile or fill caches under a visitor's first picture."""
    engine, loaded = make_engine()
    asked = []
    engine.describe("a")
    stream = loaded["A"].stream
    loaded["A"].stream = lambda **settings: asked.append(settings) or stream(**settings)
    engine.warm("a")
    assert [len(request["class_labels"]) for request in asked] == [1, 1, 1, 4]
    assert (asked[0]["skip_tolerance"], asked[1]["class_labels"]) == (0, [None])
    assert engine.seconds(ONE) > 0
