"""Live: what is overtaken ends within a step, what is not is drawn, and nothing of a look is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.common.images import publish_picture
from app.common.live import QUICK_SECONDS, Latest, look_of
from app.engine.engine import Engine
from app.engine.request import Request
from app.generate.step_history import PreviewChoice, StepHistory
from app.generate.tab import Generate
from app.inpaint.source_image import SourceImage
from app.inpaint.tab import Inpaint
from tests.app.test_tabs import SETTINGS, handlers
from tests.helpers.stand_in_inpaint import InpaintingStandIn

FAST = {"sampler": "dpm++", "num_inference_steps": 6}
NEW = False  # seeds


@pytest.fixture
def pipe() -> InpaintingStandIn:
    return InpaintingStandIn(seconds=0.001)


@pytest.fixture
def engine(pipe: InpaintingStandIn) -> Engine:
    return Engine({"shapes": "A"}, device="cpu", load=lambda _: pipe)


def settings(steps: int = 25) -> tuple[Any, ...]:
    """Of Generate's controls."""
    return (*SETTINGS[:4], steps, *SETTINGS[5:])


def asked(engine: Engine, steps: int = 25) -> tuple[Any, ...]:
    """What Generate's `make_job` takes."""
    return PreviewChoice(), engine.describe("shapes"), "shapes", *settings(steps)


def test_the_last_change_is_the_one_that_counts() -> None:
    """Two changes may reach the server in the wrong order. Catches a last value that is never shown, and a run that
    was asked for before a stroke began."""
    latest = Latest()
    latest.ask(2)
    latest.ask(1)
    assert latest.overtaken(1) and not latest.overtaken(2)
    latest.drop(2)
    assert latest.overtaken(2) and not latest.overtaken(3)
    latest.drop(1)
    assert latest.overtaken(2)


def test_a_look_is_few_steps_and_as_many_pictures_as_there_is_time_for(engine: Engine) -> None:
    """Catches a look that takes seconds, and one with more steps than the visitor asked for."""
    request = Request("shapes", (0,) * 8, tuple(range(8)), sampler="ddpm", num_inference_steps=250)
    per_evaluation = QUICK_SECONDS / sum(look_of(request, FAST, engine).evaluations)
    engine.speeds.record(("shapes", "generate"), 1, 1, per_evaluation / 3.5)
    look = look_of(request, FAST, engine)
    assert (look.sampler, look.num_inference_steps, look.seeds) == ("dpm++", 6, (0, 1, 2))
    engine.speeds.record(("shapes", "generate"), 1, 1, 100 * per_evaluation)
    assert look_of(request, FAST, engine).seeds == (0,)
    assert look_of(Request("shapes", (0,), (0,), num_inference_steps=3), FAST, engine).num_inference_steps == 3


def test_a_look_takes_the_weights_for_few_steps_unless_guidance_is_what_was_changed(engine: Engine) -> None:
    """Catches a slider of the guidance scale that moves nothing, and a look that takes twice the evaluations."""
    fast = FAST | {"num_inference_steps": 4, "guidance_scale": 1.0, "distilled": True}
    request = Request.first(engine.describe("shapes"))
    look = look_of(request, fast, engine)
    assert (look.distilled, look.guidance_scale, look.num_inference_steps) == (True, 1, 4)
    for change in ({"guidance_scale": 2.5}, {"guidance_power": 1.0}, {"guidance_low": 100}):
        look = look_of(replace(request, **change), fast, engine)
        assert not look.distilled and look.num_inference_steps == 4
        assert all(getattr(look, key) == value for key, value in change.items())
    assert look_of(replace(request, **fast), fast, engine).distilled


def test_a_look_is_shown_and_not_kept(engine: Engine, pipe: InpaintingStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file for every move of a slider, and a seed that changes between the look and the whole run."""
    tab, latest = handlers(engine, Generate), Latest(count=1)
    monkeypatch.setattr(StepHistory, "publish", lambda *_: pytest.fail("a file"))
    *_, last = tab.follow(*asked(engine), latest, 1, False)
    assert last[tab.job] is None and "<img" in last[tab.stage]["value"] and "10 steps in" in last[tab.status]
    assert [line for line in pipe.log if line.startswith("step")] == [f"step {i}" for i in range(10)]
    values, shown = tab.with_seed([*asked(engine), latest, NEW])
    assert latest.overtaken(1), "a look that is still drawn would take the page back"
    assert values[-len(SETTINGS) :] == list(settings()) and not shown
    assert tab.with_seed([*asked(engine), latest, NEW])[1]  # the run after that has a new one


def test_what_is_overtaken_ends_within_a_step(engine: Engine, pipe: InpaintingStandIn) -> None:
    """Catches runs that pile up behind a slider that moves on, and a page that a run without a word blanks."""
    tab, latest = handlers(engine, Generate), Latest(count=1)
    for whole in (False, True):
        run = tab.follow(*asked(engine), latest, latest.count, whole)
        while "step 0" not in pipe.log:
            next(run)
        latest.ask(latest.count + 1)
        list(run)
        assert pipe.log.count("closed") == 1 and "step 3" not in pipe.log
        assert not engine._lock.locked()
        pipe.log.clear()
    assert len(list(tab.follow(*asked(engine), latest, 1, True))) == 1 and not pipe.log


def test_a_look_that_ends_while_a_run_begins_is_not_shown(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inpaint was pressed just after a change. Catches a canvas in the place of the run's previews."""
    tab, latest = handlers(engine, Generate), Latest(count=1)
    job = tab.look_job(tab.make_job(*asked(engine)))
    add = job.add

    def drop(step: object) -> bool:
        latest.drop(1 if step.images else 0)
        return add(step)

    monkeypatch.setattr(job, "add", drop)
    said = [update.get(tab.status, "") for update in tab.draw(job, latest, 1)]
    assert job.done == 10 and not any("A quick look" in text for text in said)


def test_letting_go_draws_the_whole_run(engine: Engine) -> None:
    """Catches a look that is taken for the result, and a Stop button that stays."""
    tab, latest = handlers(engine, Generate), Latest(count=1)
    updates = list(tab.follow(*asked(engine, steps=12), latest, 1, True))
    assert updates[1][tab.stop]["visible"] and updates[-1][tab.start]["visible"]
    job = next(update[tab.job] for update in reversed(updates) if tab.job in update)
    assert job.done == 12 and len(job.files) == 1 and updates[-1][tab.picture] == job.files[0]


def test_nothing_to_draw_is_said_without_an_alarm(engine: Engine) -> None:
    """Catches a toast at every key of a number that is being typed."""
    tab = handlers(engine, Generate)
    *_, last = tab.follow(*asked(engine)[:5], None, *asked(engine)[6:], Latest(count=1), 1, False)
    assert last.keys() == {tab.status} and "The seed must be a whole number" in last[tab.status]


def test_live_is_offered_where_a_picture_takes_less_than_a_second(engine: Engine) -> None:
    """Catches a slow machine that draws at every move, a switch that is turned back, and a guess before the warm-up."""
    tab, latest = handlers(engine, Generate), Latest()
    assert tab.offer_live(latest, "shapes") is False
    engine.warm("shapes")
    assert tab.offer_live(latest, "shapes") is True
    tab.choose_live(latest, False)
    assert not isinstance(tab.offer_live(latest, "shapes"), bool)  # left as it is
    engine.speeds.record(("shapes", "generate"), 1, 1, 10.0)
    assert tab.offer_live(Latest(), "shapes") is False


def test_a_look_lies_in_the_painter(engine: Engine) -> None:
    """Catches a canvas that is taken from the hand that paints, an overlay that a look takes away, and a file."""
    tab, latest = handlers(engine, Inpaint), Latest(count=1)
    picture = Image.new("RGB", (32, 32), "white")
    source = SourceImage.open(publish_picture(picture, "white", tab.painter))
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    painted = tab.painter.show(source, mask) | {"version": 3, "overlay": None}
    shown = tab.controls.updates(tab.first, engine.describe("shapes"))
    values = [value["value"] if isinstance(value, dict) else value for value in map(shown.get, tab.controls.inputs)]
    info = engine.describe("shapes")
    updates = list(tab.follow(painted, info, "shapes", source, *values, latest, 1, False))
    value = updates[-1][tab.painter]["value"]
    assert value["version"] == 3 and value["look"].startswith("data:image/jpeg") and "overlay" not in value
    assert updates[-1][tab.view] == "paint" and updates[-1][tab.save]["visible"] is False
    assert tab.hide_look(False, painted)["look"] is None
    *_, last = tab.follow(painted | {"mask": None}, info, "shapes", source, *values, Latest(count=1), 1, False)
    assert last.keys() == {tab.status}
