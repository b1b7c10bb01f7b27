"""What the Training progress tab says of a strip: what can be asked, how far it is, and what came of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.engine.engine import Engine
from app.engine.request import Request
from app.progress.strip import Strip, StripUpdate, plan
from app.progress.strip_panel import StripPanel, describe, show, summary
from app.progress.tab import TrainingProgress
from app.ui import build
from mdt_core.runs import Run
from tests.helpers.run_folders import see, write_checkpoint, write_run, write_two_runs
from tests.helpers.stand_in import StandInPipeline


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_two_runs(tmp_path / "runs")


@pytest.fixture
def page(runs: Path) -> StripPanel:
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    handlers = (getattr(fn.fn, "__self__", None) for fn in build(engine, runs).fns.values())
    return next(handler for handler in handlers if isinstance(handler, TrainingProgress)).strip


def test_what_can_be_asked_is_said(runs: Path, page: StripPanel) -> None:
    """Catches a button that can only fail, and a choice of checkpoints that is made without a word."""
    choices, note, able, _ = page.offer([see(runs, "mdt"), see(runs, "dit")])
    assert choices[1:] == [("cat · 0", 0), ("dog · 1", 1), ("owl · 2", 2)]
    assert (note, able) == ("Your own seed, drawn with each of 2 checkpoints: models saved on the way.", True)
    for step in range(1, 40):
        Run(runs / "mdt").write_checkpoint(step, write_checkpoint)
    assert page.offer([see(runs)])[1].startswith("Your own seed, drawn with 16 of 40 checkpoints, evenly chosen: ")
    bare = Run(runs / "bare")
    bare.write_config({"training": {"steps": 9}})
    assert page.offer([see(runs, "dit"), see(runs, "bare")])[1].endswith("; bare kept none.")
    assert page.offer([see(runs, "bare")])[1:] == (
        "No checkpoint was kept here, only pictures: there is nothing to draw with.",
        False,
        {},
    )
    assert page.show_offer(page.offer([see(runs, "bare")]), ())[page.start]["interactive"] is False


def test_a_growing_run_leaves_the_chosen_class_alone(runs: Path, page: StripPanel) -> None:
    """Catches a class that jumps back to the first whenever training writes a checkpoint."""
    before = page.offer([see(runs)])
    assert page.show_offer(before, ())[page.label]["value"] == 0
    Run(runs / "mdt").write_checkpoint(2000, write_checkpoint)
    after = page.offer([see(runs)])
    assert "each of 2 checkpoints" in page.show_offer(after, before)[page.note]
    assert page.label not in page.show_offer(after, before)


def test_a_strip_begins_with_the_settings_that_suit_its_run(runs: Path, page: StripPanel) -> None:
    """Catches published settings in place of a run's own, a visitor's that are lost whenever training writes, and a
    guidance that only one of two runs can do."""
    tuned = {"guidance_scale": 2.0, "guidance_power": 0.0, "guidance_kind": "mask", "num_inference_steps": 12}
    tuned |= {"guidance_low": 200, "sampler": "ddim"}
    tune(runs / "mdt", tuned)
    before = page.offer([see(runs, "dit")])
    after = page.offer([see(runs, "mdt")])
    update = page.show_offer(after, before)
    assert update[page.num_steps]["value"] == 12 and update[page.scale] == 2.0
    assert page.num_steps not in page.show_offer(after, after)
    request = page.begin("mdt", "", 2, 7, 5, 3.0)[page.job].strip.request
    assert tuned.items() - vars(request).items() == {("num_inference_steps", 12), ("guidance_scale", 2.0)}
    assert (request.num_inference_steps, request.guidance_scale) == (5, 3.0)
    both = page.begin("mdt", "dit", 2, 7, 5, 3.0)[page.job].strip.request
    assert (both.guidance_kind, both.guidance_low, both.sampler) == ("class", 200, "ddim")
    tune(runs / "dit", {"presets": "broken"})
    assert page.begin("dit", "", None, 7, 5, 3.0)[page.job].strip.request.sampler == "dpm++"


def tune(run: Path, entries: dict[str, Any]) -> None:
    """Put settings into a run's pipeline."""
    index = run / "pipeline" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"sampling_defaults": entries}))


def test_a_strip_as_a_page(runs: Path) -> None:
    """Catches a picture under another step, markup from a run's name, and a summary of what did not happen."""
    write_run(runs / "<b>run", steps=(1, 100))
    strip = plan([see(runs, "dit"), see(runs, "<b>run")], Request("", (1,), (7,)))
    assert strip.steps == (1, 50, 100, 700)
    first, second = strip.cells
    update = StripUpdate(first, None, False, 75.0)
    assert "Checkpoint <b>1</b> of 2 · &lt;b&gt;run, step 100 · 75 s left" in describe(strip, update)
    del strip.samples["dit", 700]
    figures = figures_of(strip, {first.key: "data:preview"})
    assert [i for i, figure in enumerate(figures) if "data:preview" in figure] == [6]
    assert [i for i, figure in enumerate(figures) if "<i></i>" in figure] == [3]
    assert [i for i, figure in enumerate(figures) if "sample dashed" in figure] == [1, 2, 4]
    assert "background-position: 50% 0%" in figures[1] and "url(&#x27;dit/step_00000050.png" in figures[1]
    assert "<b>run" not in "".join(figures)
    assert summary(strip) == "Stopped after 0 of 2 checkpoints."
    strip.problems[first.key] = "it is <cut> short"
    strip.pictures[second.key] = "/tmp/a b.png"
    figures = figures_of(strip)
    assert "it is &lt;cut&gt; short" in figures[6]
    assert "file=/tmp/a%20b.png" in figures[3]
    assert "700</figcaption>" in figures[3]
    assert summary(strip) == "dog, seed 7 · 0 pictures in 0.0 s · 1 drawn before · 1 cannot be read"


def figures_of(strip: Strip, *drawing: Any) -> list[str]:
    return show(strip, lambda sheet: f"{sheet.path.parts[-3]}/{sheet.path.name}", *drawing).split("<figure ")[1:]


def test_what_training_drew_is_there_before_anything_else(runs: Path, page: StripPanel) -> None:
    """Catches an empty strip where weights were not kept, another class's pictures, one that takes the place of what
    was drawn, and one that is sent again for nothing."""
    shutil.rmtree(runs / "dit" / "checkpoints")
    update = page.rest("mdt", "dit", 2, None)
    strip, job = update[page.job].strip, update[page.job]
    assert (strip.runs, strip.steps, strip.subject) == (("mdt", "dit"), (10, 50, 100, 700, 1000), "owl")
    assert {sample.column for sample in strip.samples.values()} == {2}
    assert [step for run, step in strip.samples if run == "dit"] == [50, 100, 700]
    assert "sample dashed" not in update[page.stage] and "background-position: 100% 0%" in update[page.stage]
    assert update[page.bottom]["visible"]
    assert page.rest("mdt", "dit", 2, job) == gr.skip()
    assert page.rest("mdt", "dit", 1, job)[page.job].strip.subject == "dog"
    assert page.rest("dit", "", 2, None)[page.job].strip.subject == "owl"  # of its sheets' classes
    drawn = page.begin("mdt", "dit", 2, 7, 1, 3.8)[page.job]
    assert page.rest("mdt", "dit", 1, drawn) == gr.skip()  # it is being drawn
    page.ended(drawn)
    assert page.rest("mdt", "dit", 2, drawn) == gr.skip()
    assert page.rest("mdt", "dit", 1, drawn)[page.job].strip.subject == "dog"
    nothing = page.rest("mdt", "dit", None, None)
    assert "Training drew no picture of this class" in nothing[page.stage] and not nothing[page.bottom]["visible"]


def test_what_was_not_rendered_cannot_be_kept(page: StripPanel) -> None:
    """Catches a bare error of a download before the first strip, and of a file format that is made up."""
    with pytest.raises(gr.Error, match="Draw a strip first"):
        page.export("gif", None)
