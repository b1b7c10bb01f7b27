"""The handlers behind the page, called as Gradio calls them: runs that wait, end, stop and fail, and what is told."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import pytest
import torch

from app.common import recipes
from app.common.comparison import Comparison, Side
from app.common.errors import MAX_NOTES, plain_errors, warn
from app.common.live import Latest
from app.common.presets import TimedPresets
from app.common.stage import WAITING
from app.compare.tab import Compare, GridJob
from app.engine.engine import Engine
from app.engine.request import Request
from app.generate.step_history import PreviewChoice, StepHistory
from app.generate.tab import Generate
from app.inpaint.request import FALLBACK, InpaintRequest, presets_for
from app.inpaint.tab import Inpaint
from app.ui import build
from mdt_core.inpainting import METHODS
from tests.app.test_model_info import in_time
from tests.helpers.stand_in import StandInPipeline

SETTINGS = ([0], 1, 0, "dpm++", 3, 999, 3.8, 4.0, "class", 999, 0, False, True, 1, 0)  # of Generate's controls
KEEP, NEW = True, False  # the seed
Tab = TypeVar("Tab")


@pytest.fixture
def engine() -> Engine:
    return Engine({"shapes": "A", "others": "B"}, device="cpu", load=lambda _: StandInPipeline())


def handlers(engine: Engine, kind: type[Tab]) -> Tab:
    """What of this kind handles the page's events."""
    owners = (getattr(event.fn, "__self__", None) for event in build(engine, Path("runs")).fns.values())
    return next(owner for owner in owners if isinstance(owner, kind))


# --- Generate --------------------------------------------------------------------------------------------------------


def test_a_run_can_be_stopped_while_it_waits_for_the_model(engine: Engine) -> None:
    """Gradio cannot close a run that has sent nothing yet. Catches a first update that waits for the engine."""
    tab = handlers(engine, Generate)
    run = tab.run(PreviewChoice(), engine.describe("shapes"), "shapes", *SETTINGS, Latest(), KEEP)
    with engine._lock:  # another visitor's run
        first = in_time(lambda: next(run))
        assert first == {tab.status: WAITING, tab.picture: None, tab.again: gr.update(interactive=False)}
        run.close()
    assert len(list(engine.run((Request("shapes", (0,), (0,), num_inference_steps=2),)))) == 2


def test_weights_for_few_steps_bring_the_settings_that_suit_them(engine: Engine) -> None:
    """Catches such weights under a guidance that they already know, and settings of theirs that stay without them."""
    tab, info = handlers(engine, Generate), engine.describe("shapes")
    for on, preset in ((True, "fast"), (False, "balanced")):
        chosen = tab.choose_weights(on, "shapes")
        assert chosen[tab.controls.settings["guidance_scale"]] == info.presets[preset]["guidance_scale"]
        steps = chosen[tab.controls.settings["num_inference_steps"]]
        assert steps["value"] == info.presets[preset]["num_inference_steps"]


def test_a_run_has_a_seed_of_its_own_unless_it_is_kept(engine: Engine) -> None:
    """Catches the same picture at every press, a seed that the page does not show, and one that was to be kept."""
    tab, asked = handlers(engine, Generate), (PreviewChoice(), engine.describe("shapes"), "shapes", *SETTINGS)
    shown = []
    for keep in (NEW, NEW, KEEP):
        first, *_, last = list(tab.run(*asked, Latest(), keep))
        assert first.get(tab.controls.seed, 0) == last[tab.job].request.seeds[0]
        shown.append(last[tab.job].request.seeds[0])
    assert len({*shown}) == 3 and shown[2] == 0
    again = tab.use_again(last[tab.job], last[tab.job].files[0])
    assert (again[tab.controls.seed], again[tab.controls.keep_seed]) == (0, KEEP)


def test_a_model_that_is_replaced_while_it_draws_is_that_of_the_picture(tmp_path: Path) -> None:
    """Training writes its pipeline anew. Catches a run that waits for itself for ever, and a recipe that names weights
    which did not draw the picture."""
    (tmp_path / "model_index.json").write_text("one")
    engine = Engine({"run": str(tmp_path)}, device="cpu", load=lambda _: StandInPipeline(seconds=0.05))
    tab = handlers(engine, Generate)
    before = engine.describe("run")
    run = tab.run(PreviewChoice(), before, "run", *SETTINGS, Latest(), KEEP)
    while tab.job not in next(run):
        pass
    (tmp_path / "model_index.json").write_text("three")
    *_, last = in_time(lambda: list(run))
    (file,) = last[tab.job].files
    assert recipes.read(file)["weights"] == before.weights != engine.describe("run").weights


def test_files_are_written_when_the_engine_is_free_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches visitors who wait for the compression of another one's pictures."""
    tab, free = handlers(engine, Generate), []
    publish = StepHistory.publish
    monkeypatch.setattr(
        StepHistory, "publish", lambda *asked: free.append(not engine._lock.locked()) or publish(*asked)
    )
    list(tab.run(PreviewChoice(), engine.describe("shapes"), "shapes", *SETTINGS, Latest(), KEEP))
    assert free == [True]


def test_a_view_chosen_while_a_run_waits_is_that_of_its_steps(engine: Engine) -> None:
    """Catches a choice that the run before got, and a page that says "What it sees" of the finished pictures."""
    tab, view = handlers(engine, Generate), PreviewChoice()
    run = tab.run(view, engine.describe("shapes"), "shapes", *SETTINGS, Latest(), KEEP)
    next(run)
    tab.choose_preview(view, None, 1, "x_t")
    first = next(run)
    assert first[tab.stage]["value"] == first[tab.job].at(0)
    view.key = "x_0"
    assert first[tab.stage]["value"] != first[tab.job].at(0)
    tab.choose_preview(view, first[tab.job], 1, "x_t")
    *_, last = run
    assert last[tab.gallery]["visible"] and last[tab.preview_kind] == view.key == "x_0"


def test_a_page_does_not_wait_for_the_warm_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pages that do have no thread left for anybody. Catches a wait, and a clock that never stops."""
    presets, over = handlers(engine, TimedPresets), threading.Event()
    monkeypatch.setattr(engine, "warm", lambda name: over.wait(60))
    engine.warm_in_background("shapes")
    told = in_time(lambda: presets.update_when_warm("shapes", *SETTINGS))
    assert told.keys() == {presets.timer} and told[presets.timer].active
    over.set()
    engine._warming.join()
    told = presets.update_when_warm("shapes", *SETTINGS)
    assert told.keys() == {presets.picker, presets.description, presets.timer} and not told[presets.timer].active
    empty = ("shapes", [0], None, *SETTINGS[2:])  # a number that is being typed
    assert not presets.update_when_warm(*empty)[presets.timer].active


# --- Compare ---------------------------------------------------------------------------------------------------------


def test_a_stopped_grid_can_be_saved(engine: Engine) -> None:
    """Catches an hour's cells that are lost with the last ones."""
    tab = handlers(engine, Compare)
    base = Request("shapes", (None,), (3,), num_inference_steps=60)  # longer than a preview is shown
    grid = GridJob(Comparison(base, Side("class", (0, 1)), Side("guidance_scale", (1.0, 2.0))))
    run = tab.run(grid)
    next(run)
    assert tab.save not in tab.finish(grid)  # nothing is there yet
    while not 1 <= grid.done < 4:
        next(run)
    run.close()
    saved = tab.finish(grid)
    assert tab.finish(grid) == saved and grid.grid is None, "a sheet of megabytes stays with the session"
    recipe = recipes.read(saved[tab.save]["value"], kind="compare")
    assert recipe["rows"] == {"axis": "guidance_scale", "values": [1.0, 2.0]}
    assert [value["class_name"] for value in recipe["columns"]["values"]] == ["circle", "square"]


def test_a_model_that_is_gone_when_its_grid_begins_is_told(engine: Engine) -> None:
    """Catches a bare "Error" on a checkpoint that was deleted while its grid stood in the queue."""
    sides = Side("class", (0,)), Side("guidance_scale", (1.0,))
    grid = GridJob(Comparison(Request("gone", (None,), (3,)), *sides))
    with pytest.raises(gr.Error, match="There is no model 'gone'"):
        list(handlers(engine, Compare).run(grid))


def begin(tab: Compare, engine: Engine, columns: Side, *sampling: Any) -> GridJob:
    """Four classes down."""
    side = [columns.axis, "1, 2", [0], columns.values]
    asked = (*side, "class", "", [0, 1, 2, 3], [], 0, 0, *(sampling or SETTINGS[3:12]))
    return tab.begin(engine.describe("shapes"), "shapes", *asked)[tab.job]


def test_a_grids_models_are_looked_for_once_each(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look reads all folders of runs. Catches one per cell, and a name that is not looked for at all."""
    tab, asked = handlers(engine, Compare), []
    locate = engine.locate
    monkeypatch.setattr(engine, "locate", lambda name: asked.append(name) or locate(name))
    assert begin(tab, engine, Side("model", ("others", "shapes"))).comparison.columns.values == ("others", "shapes")
    assert asked == ["others", "shapes"]
    with pytest.raises(gr.Error, match="There is no model 'nobody'"):
        begin(tab, engine, Side("model", ("shapes", "nobody")))


def test_a_grid_too_long_for_a_lent_gpu_does_not_join_the_queue(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a grid that is cut off on ZeroGPU after two minutes, and one that is refused elsewhere."""
    tab, scales = handlers(engine, Compare), Side("guidance_scale", ())
    sampling = ("ddpm", 1000, 999, 3.8, 4.0, "class", 999, 0, True)
    begin(tab, engine, scales, *sampling)
    monkeypatch.setattr("app.engine.engine.ON_ZERO_GPU", True)
    begin(tab, engine, scales)
    with pytest.raises(gr.Error, match="may take 140 s on the GPU, which is lent for 120 s at most"):
        begin(tab, engine, scales, *sampling)


def test_a_cell_opens_in_generate(engine: Engine) -> None:
    """Catches the row taken for the column, a class by its number in another model, and a seed that is not kept."""
    models = {"shapes": StandInPipeline(), "others": StandInPipeline({0: "square", 1: "circle"})}
    engine = Engine({name: name for name in models}, device="cpu", load=models.get)
    tab = handlers(engine, Compare)
    generate = tab.studio.show_request.__self__
    job = begin(tab, engine, Side("model", ("shapes", "others")))
    job.info = engine.describe("shapes")
    update = tab.open_cell(job, gr.EventData(None, {"row": 1, "column": 1}))
    assert update[tab.studio.model]["value"] == "others" and update[tab.studio.tabs].selected == "generate"
    assert update[generate.controls.classes]["value"] == [0]  # the others' square
    assert update[generate.controls.seed] == 0 and update[generate.controls.keep_seed] is True
    assert update[generate.controls.count] == 1
    with pytest.raises(gr.Error, match="not there any more: draw it again"):
        tab.open_cell(None, gr.EventData(None, {"row": 0, "column": 0}))
    with pytest.raises(gr.Error, match="has no class 'golden retriever'"):
        tab.open_cell(job, gr.EventData(None, {"row": 2, "column": 1}))


# --- what is told ----------------------------------------------------------------------------------------------------


def test_memory_that_does_not_suffice_is_told_on_a_cpu_too() -> None:
    """Catches a bare "Error" where torch raises a plain RuntimeError, and other faults taken for this one."""
    with pytest.raises(gr.Error, match="memory does not suffice: ask for fewer images"), plain_errors():
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="must match the size"), plain_errors():
        torch.ones(2) + torch.ones(3)


def test_of_many_notes_a_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's grid of thousands of classes: catches a page full of toasts, and markup in them."""
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", told.append)
    warn([f"no class <{i}>" for i in range(3000)])
    assert len(told) == MAX_NOTES + 1
    assert (told[0], told[-1]) == ("Recipe: no class &lt;0&gt;.", f"Recipe: and {3000 - MAX_NOTES} more.")
    told.clear()
    warn(["one", "two"])
    assert told == ["Recipe: one.", "Recipe: two."]


# --- Inpaint ---------------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_do_the_method_brings_another_with_its_own_steps(engine, monkeypatch):
    """Catches RePaint in half of the steps that it wants: those of the method before."""
    tab, info = handlers(engine, Inpaint), replace(engine.describe("shapes"), masked_pass=True)
    plain = replace(info, name="others", masked_pass=False)
    monkeypatch.setattr(engine, "describe", {"shapes": info, "others": plain}.get)
    controls = tab.controls

    def follow(request: InpaintRequest) -> tuple[str, str, int]:
        shown = controls.updates(request, info)
        values = [value["value"] if isinstance(value, dict) else value for value in map(shown.get, controls.inputs)]
        changed = tab.offer_methods("others", info, *values)
        assert changed[tab.presets.model] == plain
        method, sampler, steps = (controls.settings[key] for key in ("method", "sampler", "num_inference_steps"))
        assert {name for _, name in changed[method]["choices"]} == {"blend", "repaint"}
        return changed[method]["value"], changed[sampler], changed[steps]["value"]

    best = InpaintRequest("shapes", (0,), (0,), **presets_for(info)["Best"])
    row = METHODS[FALLBACK]
    assert follow(best) == (FALLBACK, row.sampler, row.num_inference_steps)
    assert follow(InpaintRequest.first(info)) == (FALLBACK, row.sampler, row.num_inference_steps // 2)
    assert follow(replace(best, method="blend", num_inference_steps=33)) == ("blend", row.sampler, 33)
