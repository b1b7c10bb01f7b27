"""The Training progress tab in a stranger's hands: what must not be reached, and what is sent again."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client

from app.engine.engine import Engine
from app.engine.runs import checkpoint_folders, find_runs, look_at
from app.progress.tab import PageState, StepSlider, TrainingProgress
from app.ui import build, launch
from mdt_core.runs import Run
from tests.helpers.run_folders import see, write_checkpoint, write_run, write_two_runs
from tests.helpers.stand_in import StandInPipeline


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_two_runs(tmp_path / "runs")


@pytest.mark.parametrize("sent, counts", [(8, 2), (2, 2), (1, 1), (-1, 0)])
def test_a_position_from_before_the_range_shrank_is_the_last(sent: int, counts: int) -> None:
    """Catches an error in place of the page: Gradio's own slider refuses what it no longer offers."""
    assert StepSlider(0, 2, 0, step=1).preprocess(sent) == counts


NAMES = ["../secret", "..", ".", "/etc", "runs/../../secret", "mdt/../../secret", "", "link", "mdt/samples"]


@pytest.fixture
def secret(runs: Path) -> Path:
    """A run outside of the folder of runs, and ways that lead to it."""
    write_run(runs.parent / "secret", steps=(7, 77))
    (runs / "link").symlink_to(runs.parent / "secret")
    (runs / "circle").symlink_to(runs / "circle")
    return runs.parent / "secret"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(runs: Path, secret: Path, name: str) -> None:
    """Catches a name that is joined to a folder."""
    for given in (name, str(secret), f"../{secret.name}"):
        assert look_at(given, find_runs([runs])).problem == "There is no run of this name any more."


@pytest.mark.parametrize(
    "part", ["config.json", "metrics.jsonl", "evaluation.jsonl", "samples", "checkpoints", "pipeline"]
)
def test_links_out_of_a_run_are_not_followed(runs: Path, secret: Path, part: str) -> None:
    """Catches a run folder that lends the page to any other file of the machine."""
    target = runs / "mdt" / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(secret / part)
    run = see(runs)
    assert "is a link that leads out of the run's folder" in run.problem
    assert not (run.sheets or run.loss or run.kid or run.checkpoints)
    if part in ("checkpoints", "pipeline"):
        assert checkpoint_folders(runs / "mdt") == {}  # nor is there a model


def test_a_run_may_be_a_link_within_the_folder(runs: Path) -> None:
    """Catches a rule so strict that "latest" cannot point to a run."""
    (runs / "latest").symlink_to("mdt")
    assert see(runs, "latest").problem == ""


@dataclass
class Visitor:
    """A stranger who talks to the server as the page's scripts do, but says what they like."""

    url: str
    index: int  # of the tab's handler

    def look(self, first: str | None, second: str | None) -> str:
        """What the tab sends for two runs."""
        data = [first, second, 0, None, None]
        call = {"data": data, "fn_index": self.index, "session_hash": "stranger"}
        return httpx.post(f"{self.url}gradio_api/run/predict", json=call, timeout=60).text

    def file(self, path: str | Path) -> httpx.Response:
        return httpx.get(f"{self.url}gradio_api/file={path}", timeout=60)


@pytest.fixture
def visitor(runs: Path, secret: Path) -> Iterator[Visitor]:
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    demo = build(engine, runs)
    _, url, _ = launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    (index,) = {fn._id for fn in demo.fns.values() if getattr(fn.fn, "__qualname__", "") == "TrainingProgress.look"}
    visitor = Visitor(url, index)
    visitor.look(None, None)  # the tab is opened: its pickers learn the names
    yield visitor
    demo.close()


def test_nothing_outside_is_reached_through_the_server(visitor: Visitor, runs: Path, secret: Path) -> None:
    """Catches a handler that opens what a client names, and run folders that are served as files."""
    assert "Step 1,000" in visitor.look("mdt", "dit")
    for name in (*NAMES, str(secret), str(runs / "mdt")):
        for pair in ((name, "dit"), ("dit", name)):
            answer = visitor.look(*pair)
            assert "Step 77" not in answer
            assert "step_00000077" not in answer
    for path in (secret / "config.json", runs / "mdt" / "config.json", runs / "mdt" / "samples" / "step_00000010.png"):
        assert visitor.file(path).status_code == 403
    client = Client(visitor.url, verbose=False)
    with pytest.raises(ValueError, match="Invalid function index"):  # it is no part of the API
        client.predict("../secret", "", 0, None, fn_index=visitor.index)


def open_tab(runs: Path) -> TrainingProgress:
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    handlers = (getattr(fn.fn, "__self__", None) for fn in build(engine, runs).fns.values())
    return next(handler for handler in handlers if isinstance(handler, TrainingProgress))


def test_a_checkpoint_that_goes_stays_a_choice_while_the_page_may_send_it(runs: Path) -> None:
    """Catches an error of Gradio's on the page of one whose run is deleted: the value sent is no choice any more."""
    tab = open_tab(runs)
    Run(runs / "mdt").write_checkpoint(100, write_checkpoint)
    update = tab.look("mdt", "", 0, None, PageState())
    chosen = update[tab.checkpoint]["value"]
    shutil.rmtree(runs / "mdt")
    update = tab.look("mdt", "", 0, chosen, update[tab.shown])[tab.checkpoint]
    assert (update["choices"], update["value"]) == ([(f"{chosen} · gone", chosen)], None)


def test_a_picker_keeps_what_was_chosen_meanwhile(runs: Path) -> None:
    """Catches a second choice that is undone by the answer to the first, which a slow server sends after it."""
    tab = open_tab(runs)
    update = tab.look(None, None, 0, None, PageState())
    assert {update[tab.first]["value"], update[tab.second]["value"]} <= {"dit", "mdt", "avatars-dit", ""}
    update = tab.look("mdt", "avatars-dit", 0, None, update[tab.shown])
    assert tab.view in update and tab.first not in update and tab.second not in update
    update = tab.look("mdt", "mdt", 0, None, update[tab.shown])
    assert tab.first not in update and update[tab.second]["value"] == ""


def test_where_there_is_no_run_the_page_says_how_to_train_one(tmp_path: Path) -> None:
    """Catches an empty page where the first command belongs."""
    tab = open_tab(tmp_path / "runs")
    tab.folders = (tmp_path / "runs",)  # without those that are shipped
    update = tab.look(None, None, 0, None, PageState())
    assert not update[tab.page]["visible"] and update[tab.empty]["visible"]
    assert f"--output-dir {tmp_path}/runs/my-first-run" in tab.empty.value


def test_strips_and_animations_reach_no_further(runs: Path, secret: Path) -> None:
    """Catches a checkpoint or samples from outside that are drawn with, or put in an animation, by their path."""
    (runs / "mdt" / "checkpoints").rename(runs.parent / "taken")
    (runs / "mdt" / "checkpoints").symlink_to(secret / "checkpoints")
    tab = open_tab(runs)
    words = "There is no run of this name|is a link that leads out|kept no checkpoint"
    for name in (*NAMES, str(secret), "mdt"):
        with pytest.raises(gr.Error, match=words):
            tab.strip.begin(name, "", 0, 0, 1, 3.8)
        with pytest.raises(gr.Error, match=f"{words}|no samples"):
            tab.export("gif", name, "")
    assert tab.strip.begin("dit", "", 0, 0, 1, 3.8)[tab.strip.job].strip.runs == ("dit",)
    assert Path(tab.export("png", "dit", "../secret")).name == "dit-secret-samples.png"


def test_looking_again_sends_only_what_is_new(visitor: Visitor, runs: Path) -> None:
    """Catches pictures that are stored again at every look, one that lost a bit on its way to the page, and pickers
    that close under the visitor's hand whenever training logs a row."""
    page = visitor.look("mdt", "")
    path = re.search(r"gradio_api/file=([^&]*step_00000010.png)", page)[1]
    assert visitor.file(path).content == (runs / "mdt" / "samples" / "step_00000010.png").read_bytes()
    assert "choices" in page
    assert "runs-view" not in visitor.look("mdt", "")
    Path(path).unlink()  # as the server does once a day
    Run(runs / "mdt").log({"step": 1001, "loss": 0.1})
    page = visitor.look("mdt", "")
    assert path in page
    assert "choices" not in page
    assert Path(path).exists()
    written = Path(path).stat().st_mtime_ns
    assert path in visitor.look("mdt", "dit")
    assert Path(path).stat().st_mtime_ns == written
