"""Training runs as the page shows them: reading, comparing step by step, broken runs, and what must not be reached."""

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image
from safetensors.numpy import save_file

from app.curves import BINS, Axis, binned, curve, step_axis
from app.engine import Engine
from app.film import columns_for, film
from app.progress import LIVE_SECONDS, find_runs, first_choice, look_up
from app.steps import all_steps, at_or_below, checkpoints_of, follow, suggestion, value_at
from app.ui import build, launch
from mdt_core.runs import Run
from tests.stand_in import StandInPipeline

CLASSES = ["cat", "dog", "owl"]


def picture(columns: int = 3, rows: int = 2, side: int = 8) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (rows * side, columns * side, 3))
    return Image.fromarray(noise.astype(np.uint8))


def write_checkpoint(folder: Path, shards: int = 1) -> None:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text("{}")
    for i in range(shards):
        end = f"-{i + 1:05}-of-{shards:05}" if shards > 1 else ""
        save_file({"w": np.ones(100)}, folder / "transformer" / f"diffusion_pytorch_model{end}.safetensors")


def write_run(folder: Path, steps: tuple[int, ...] = (10, 100, 1000), total: int = 1000) -> Run:
    """A small run, written as training writes it."""
    run = Run(folder)
    training = {"steps": total, "batch_size": 16}
    run.write_config({"model": "MDTv2-S/2", "training": training, "samples_per_class": 2, "classes": CLASSES})
    for step in steps:
        run.log({"step": step, "loss": 1 / step, "images_per_second": 8.0})
        run.write_sample(step, picture())
        run.write_evaluation({"step": step, "kid_efflite0": 0.5 / step, "kid_error": 0.01})
    run.write_checkpoint(steps[-1], write_checkpoint)
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "model_index.json").write_text("{}")
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two runs whose steps differ."""
    write_run(tmp_path / "runs" / "mdt")
    write_run(tmp_path / "runs" / "dit", steps=(50, 100, 700))
    return tmp_path / "runs"


def see(runs: Path, name: str = "mdt"):
    return look_up(name, find_runs([runs]))


def frames_of(page: str) -> list[dict]:
    return json.loads(html.unescape(page.split('data-frames="')[1].split('"')[0]))


def test_a_run_is_read_whole(runs: Path) -> None:
    """Catches a column, a curve or a step that is read from the wrong place."""
    run = see(runs)
    assert (run.problem, run.model, run.classes, run.rows) == ("", "MDTv2-S/2", tuple(CLASSES), 2)
    assert (run.steps, run.total, run.speed) == (1000, 1000, 8.0)
    assert run.loss == [(10, 0.1), (100, 0.01), (1000, 0.001)]
    assert run.kid == [(10, 0.05), (100, 0.005), (1000, 0.0005)]
    assert {step: sheet.size for step, sheet in run.sheets.items()} == dict.fromkeys((10, 100, 1000), (24, 16))
    assert run.checkpoints == {1000: ""}


def test_what_was_read_is_kept_until_a_file_changes(runs: Path) -> None:
    """Catches a poll that opens every picture every two seconds, and one that does not see a new row or picture."""
    first = see(runs)
    assert see(runs) is first
    Run(runs / "mdt").log({"step": 1001, "loss": 0.5})
    second = see(runs)
    assert second.loss[-1] == (1001, 0.5)
    assert second.version != first.version
    assert second.sheets[10] is first.sheets[10]
    Run(runs / "mdt").write_sample(1001, picture())
    assert 1001 in see(runs).sheets


def test_a_run_is_live_while_it_is_written(runs: Path) -> None:
    """Catches a finished run that is said to be trained, and a killed one that is so for ever."""
    run = see(runs, "dit")
    assert run.live
    assert run.seconds_left == 300 * 16 / 8
    assert not see(runs).live
    object.__setattr__(run, "written", run.written - LIVE_SECONDS)
    assert not run.live


def test_the_page_opens_with_what_is_trained_now(runs: Path, tmp_path: Path) -> None:
    """Catches a page that hides the run one has just started behind an older one."""
    assert first_choice(find_runs([runs]), tmp_path / "shipped") == ["dit"]
    shutil.rmtree(runs / "dit")
    write_run(tmp_path / "shipped" / "a")
    write_run(tmp_path / "shipped" / "b")
    found = find_runs([runs, tmp_path / "shipped"])
    assert first_choice(found, tmp_path / "shipped") == ["a", "b"]
    assert first_choice(find_runs([runs]), tmp_path / "shipped") == ["mdt"]


def test_only_training_runs_are_found(runs: Path) -> None:
    """Catches an autoencoder's folder, a picture, or a half-written run's hidden folder among the runs."""
    (runs / "autoencoder").mkdir()
    (runs / "autoencoder" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (runs / "list").mkdir()
    (runs / "list" / "config.json").write_text("[]")
    (runs / ".mdt.partial" / "samples").mkdir(parents=True)
    (runs / "samples.npz").write_bytes(b"")
    Run(runs / "new").write_config({"training": {"steps": 10}})
    assert list(find_runs([runs, runs / "nothing"])) == ["dit", "mdt", "new"]
    assert see(runs, "new").problem == ""
    assert find_runs([runs / "nothing"]) == {}


# --- steps -------------------------------------------------------------------------------------------------------


def test_the_nearest_step_is_never_a_later_one() -> None:
    """Catches samples that are shown before they were drawn."""
    steps = [50, 100, 700]
    assert [at_or_below(steps, step) for step in (49, 50, 99, 100, 5000)] == [None, 50, 50, 100, 700]
    assert at_or_below([], 10) is None
    assert [value_at([(10, 0.5), (20, 0.25)], step) for step in (9, 10, 19, 20, 99)] == [None, 0.5, 0.5, 0.25, 0.25]


def test_the_slider_follows_only_from_the_end() -> None:
    """Catches a slider that jumps away from the step one looks at, and one that stays behind a growing run."""
    before, now = [1, 2, 4], [1, 2, 3, 4, 8]
    assert follow(before, 2, now) == 4
    assert follow(before, 1, now) == 1
    assert follow([2, 4, 8], 1, now) == 3
    assert follow((), 0, now) == 4
    assert follow(before, 1, []) == 0


def test_two_runs_at_one_step(runs: Path) -> None:
    """Catches panels at different steps without a word about it, and a picture of another run."""
    seen = [see(runs, "mdt"), see(runs, "dit")]
    assert all_steps(seen) == [10, 50, 100, 700, 1000]
    frames = frames_of(film(seen, 4, lambda sheet: f"{sheet.path.parts[-3]}/{sheet.path.stem[-4:]}"))
    assert [frame["label"] for frame in frames] == ["Step 10", "Step 50", "Step 100", "Step 700", "Step 1,000"]
    assert [frame["sheets"] for frame in frames] == [
        ["mdt/0010", None],
        ["mdt/0010", "dit/0050"],
        ["mdt/0100", "dit/0100"],
        ["mdt/0100", "dit/0700"],
        ["mdt/1000", "dit/0700"],
    ]
    assert frames[0]["words"]["at-1"] == "no samples up to step 10 yet"
    assert frames[2]["words"]["at-0"] == "step <b>100</b>"
    assert frames[3]["words"]["at-0"] == "step <b>100</b>, the nearest up to 700"
    assert (frames[3]["words"]["loss-0"], frames[0]["words"]["loss-1"]) == ("0.0100", "–")
    places = [frame["x"] for frame in frames]
    assert places == sorted(places)


def test_every_class_is_labelled_and_cut_out_of_the_sheet(runs: Path) -> None:
    """Catches a label under another class's samples, and names that are taken for HTML."""
    config = Run(runs / "mdt").config
    Run(runs / "mdt").write_config(config | {"classes": ["cat", '<b>"dog"', "owl"], "model": "<script>"})
    page = film([see(runs)], 0, lambda sheet: "x")
    figures = page.split("<figure>")[1:]
    assert len(figures) == 3
    assert "cat</figcaption>" in figures[0]
    assert "position: 0% 0%" in figures[0]
    assert "position: 0% 100%" in figures[0]
    assert "position: 50% 0%" in figures[1]
    assert "&lt;b&gt;&quot;dog&quot;" in figures[1]
    assert "position: 100% 100%" in figures[2]
    assert "<script>" not in page
    Run(runs / "mdt").write_config(config | {"classes": ["cat"]})
    assert "class 2</figcaption>" in film([see(runs)], 0, lambda sheet: "x")


@pytest.mark.parametrize(("classes", "rows", "columns"), [(16, 2, 8), (3, 2, 3), (1, 1, 1), (40, 1, 10)])
def test_the_tiles_are_as_large_as_they_can_be(classes: int, rows: int, columns: int) -> None:
    """Catches a single column of tiny tiles, and a division by nothing."""
    assert columns_for(classes, rows) == columns


def test_a_checkpoint_is_suggested_with_the_step(runs: Path) -> None:
    """Catches a button that opens a later checkpoint than the samples show, or another run's."""
    Run(runs / "mdt").write_checkpoint(100, write_checkpoint)
    seen = [see(runs, "mdt"), see(runs, "dit")]
    assert list(checkpoints_of(seen)) == ["mdt @ 100", "mdt @ 1000", "dit @ 700"]
    assert suggestion(seen, 999, None) == "mdt @ 100"
    assert suggestion(seen, 1000, "mdt @ 100") == "mdt @ 1000"
    assert suggestion(seen, 1000, "dit @ 700") == "dit @ 700"
    assert suggestion(seen, 10, "nobody @ 5") == "mdt @ 100"
    assert suggestion([], 10, None) is None


# --- curves ------------------------------------------------------------------------------------------------------


def test_an_axis_is_logarithmic_where_it_helps() -> None:
    """Catches a curve squeezed into the first tenth of its plot, ticks outside of it, and a logarithm of nothing."""
    steps = Axis.over([10, 100, 1000], 0, 100)
    assert [steps(step) for step in (1, 10, 100, 1000, 9999)] == [0, 0, 50, 100, 100]
    assert steps.ticks == [10, 100, 1000]
    kid = Axis.over([-0.01, 0.03], 100, 0)
    assert not kid.logarithmic
    assert kid(0.01) == 50
    assert kid.ticks == [-0.01, 0, 0.01, 0.02, 0.03]
    assert Axis.over([7], 0, 10)(7) == 0
    assert Axis.over([0, 0], 0, 10)(0) == 0


def test_a_long_curve_is_thinned_to_its_means() -> None:
    """Catches a page of megabytes after a long training, and a curve that shows single noisy steps."""
    noisy = [(step, 1.0 + (-1) ** step) for step in range(1, 10_001)]
    thin = binned(noisy, step_axis(step for step, _ in noisy))
    assert len(thin) <= BINS + 1
    assert thin[-1][1] == pytest.approx(1, abs=0.02)
    assert binned(noisy[:50], step_axis([1, 50])) == noisy[:50]


def test_what_is_no_number_is_not_drawn(runs: Path) -> None:
    """Catches a NaN in the log that takes the whole plot with it."""
    run = Run(runs / "mdt")
    run.log({"step": 2000, "loss": float("nan")})
    run.log({"step": 2001, "loss": None})
    run.log({"step": 2002, "loss": "0.5"})
    assert see(runs).loss[-1] == (1000, 0.001)
    drawing = curve("Loss", [see(runs).loss, []], step_axis([10, 1000]))
    assert "nan" not in drawing
    assert drawing.count("<polyline") == 2


# --- broken runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"model": ', "\udcff", '{"training": 7}', "[]", '{"samples_per_class": "x"}', "[" * 9999]
)
def test_a_broken_configuration_is_told(runs: Path, text: str) -> None:
    """Catches a page that dies of one bad run."""
    (runs / "mdt" / "config.json").write_text(text, errors="surrogateescape")
    assert see(runs).problem
    assert see(runs).problem.endswith(".")
    assert see(runs, "dit").problem == ""
    assert "problem" in film([see(runs), see(runs, "dit")], 0, lambda sheet: "x")


def test_a_damaged_picture_is_told_and_the_others_are_shown(runs: Path) -> None:
    """Catches a broken image on the page, and a whole run that is lost for one file."""
    sheet = see(runs).sheets[100].path
    sheet.write_bytes(sheet.read_bytes()[:-40])
    run = see(runs)
    assert list(run.sheets) == [10, 1000]
    assert run.notes == ("step_00000100.png: this picture is damaged or cut short",)


def test_a_damaged_checkpoint_is_told(runs: Path) -> None:
    """Catches a button that leads into a traceback."""
    run = Run(runs / "mdt")
    for step, shards in ((1, 1), (2, 1), (3, 3), (4, 3)):
        run.write_checkpoint(step, lambda folder, shards=shards: write_checkpoint(folder, shards))
    transformer = {step: folder / "transformer" for step, folder in run.checkpoints.items()}
    weights = transformer[1] / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (transformer[2] / "config.json").unlink()
    (transformer[3] / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    (runs / "mdt" / "checkpoints" / "step_00000005").mkdir()
    assert see(runs).checkpoints == {
        1: "diffusion_pytorch_model.safetensors is damaged or cut short",
        2: "transformer/config.json is missing",
        3: "only 2 of its 3 weight files are there",
        4: "",
        5: "transformer/config.json is missing",
        1000: "",
    }
    (runs / "mdt" / "pipeline" / "model_index.json").unlink()
    assert see(runs).checkpoints[1000] == "the run has no pipeline folder to open it with"


def test_a_run_may_be_deleted_at_any_moment(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error when a file is gone between its listing and its reading."""
    found = find_runs([runs])
    keep = runs.parent / "kept"
    shutil.copytree(runs / "mdt", keep)
    again = partial(shutil.copytree, keep, runs / "mdt", copy_function=shutil.copy)  # with new times
    shutil.rmtree(runs / "mdt")
    for name in ("config", "metrics", "samples", "checkpoints"):
        original = getattr(Run, name).fget
        again()

        def vanish(run: Run, original=original):
            value = original(run)
            shutil.rmtree(run.folder, ignore_errors=True)
            return value

        with monkeypatch.context() as patch:
            patch.setattr(Run, name, property(vanish))
            progress = look_up("mdt", found)
        assert not (runs / "mdt").exists()
        film([progress, look_up("dit", found)], 0, lambda sheet: "x")
    shutil.rmtree(runs)
    assert look_up("mdt", found).problem == "The run's folder disappeared while it was read."
    assert look_up("mdt", find_runs([runs])).problem == "There is no run of this name any more."


# --- what must not be reached ------------------------------------------------------------------------------------

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
        assert look_up(given, find_runs([runs])).problem == "There is no run of this name any more."


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


def test_looking_again_sends_only_what_is_new(visitor: Visitor, runs: Path) -> None:
    """Catches pictures that are stored again at every look, one that lost a bit on its way to the page, and pickers
    that close under the visitor's hand whenever training logs a row."""
    page = visitor.look("mdt", "")
    path = re.search(r"gradio_api/file=([^&]*step_00000010.png)", page)[1]
    assert visitor.file(path).content == (runs / "mdt" / "samples" / "step_00000010.png").read_bytes()
    assert "choices" in page
    assert "film" not in visitor.look("mdt", "")
    Path(path).unlink()  # as the server does once a day
    Run(runs / "mdt").log({"step": 1001, "loss": 0.1})
    page = visitor.look("mdt", "")
    assert path in page
    assert "choices" not in page
    assert Path(path).exists()
    written = Path(path).stat().st_mtime_ns
    assert path in visitor.look("mdt", "dit")
    assert Path(path).stat().st_mtime_ns == written
