"""What the Training progress tab says of a strip: what can be asked, how far it is, and what came of it."""

from pathlib import Path

import gradio as gr
import pytest

from app.engine.engine import Engine
from app.engine.request import Request
from app.progress.strip import StripUpdate, plan
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
    choices, note, able = page.offer([see(runs, "mdt"), see(runs, "dit")])
    assert choices[1:] == [("cat · 0", 0), ("dog · 1", 1), ("owl · 2", 2)]
    assert (note, able) == ("One picture with each of 2 checkpoints.", True)
    for step in range(1, 40):
        Run(runs / "mdt").write_checkpoint(step, write_checkpoint)
    assert page.offer([see(runs)])[1] == "One picture with 16 of 40 checkpoints, evenly chosen."
    bare = Run(runs / "bare")
    bare.write_config({"training": {"steps": 9}})
    assert page.offer([see(runs, "dit"), see(runs, "bare")])[1].endswith("each of 1 checkpoints; bare kept none.")
    assert page.offer([see(runs, "bare")])[1:] == (
        "No checkpoint was kept here, only samples: there is nothing to render with.",
        False,
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


def test_a_strip_as_a_page(runs: Path) -> None:
    """Catches a picture under another step, markup from a run's name, and a summary of what did not happen."""
    write_run(runs / "<b>run", steps=(1, 100))
    strip = plan([see(runs, "dit"), see(runs, "<b>run")], Request("", (1,), (7,)))
    assert strip.steps == (100, 700)
    first, second = strip.cells
    update = StripUpdate(first, 1, None, False, 75.0)
    assert "Checkpoint <b>1</b> of 2 · &lt;b&gt;run, step 100 · 75 s left" in describe(strip, update)
    figures = show(strip, first, "data:preview").split("<figure ")[1:]
    assert ["data:preview" in figure for figure in figures] == [False, False, True, False]
    assert ["<i></i>" in figure for figure in figures] == [False, True, False, False]
    assert "<b>run" not in show(strip)
    assert summary(strip) == "Stopped after 0 of 2 checkpoints."
    strip.problems[first.key] = "it is <cut> short"
    strip.pictures[second.key] = "/tmp/a b.png"
    figures = show(strip).split("<figure ")[1:]
    assert "it is &lt;cut&gt; short" in figures[2]
    assert "file=/tmp/a%20b.png" in figures[1]
    assert "700</figcaption>" in figures[1]
    assert summary(strip) == "dog, seed 7 · 0 pictures in 0.0 s · 1 drawn before · 1 cannot be read"


def test_what_was_not_rendered_cannot_be_kept(page: StripPanel) -> None:
    """Catches a bare error of a download before the first strip, and of a file format that is made up."""
    with pytest.raises(gr.Error, match="Render a strip first"):
        page.export("gif", None)
