"""The Teach tab: what is dropped and refused, what is started, and what is seen of it, by a restarted app too."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import app.teach.tab
from app.engine.engine import Engine
from app.hosting.serving import Serving
from app.teach import dropped
from app.teach.begin import begin, new_folder
from app.teach.dropped import Draft, unpack
from app.teach.settings import DEFAULTS, TEACHING
from app.teach.tab import BUSY, NEW, READY, Teach, View
from app.teach.zones import MOST_CLASSES, PictureDrop
from app.ui import build
from mdt_core.runs import Run
from tests.helpers.run_folders import picture, write_checkpoint
from tests.helpers.stand_in import StandInPipeline
from train.teach import process
from train.teach.plan import TeachPlan
from train.teach.status import holder, note_process, take_turn

ROOT = Path(__file__).parents[2]
SETTINGS = {key: DEFAULTS[key] for key in TEACHING}


def write_picture(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("drawings")
    return [str(write_picture(folder / f"{seed}.png", seed)) for seed in range(3)]


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else teaches here: the lock of the machine lies in a folder of the test's, as do all temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TeachPlan]:
    """The plans that were to be started; nothing is."""
    plans: list[TeachPlan] = []
    monkeypatch.setattr(process, "start", lambda plan: (plan.save(), plans.append(plan)))
    return plans


def make_tab(runs: Path) -> Teach:
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    owners = (getattr(event.fn, "__self__", None) for event in build(engine, runs).fns.values())
    return next(owner for owner in owners if isinstance(owner, Teach))


@pytest.fixture(scope="module")
def shared_tab() -> Teach:
    return make_tab(Path("runs"))


@pytest.fixture
def tab(shared_tab: Teach, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Teach:
    """The tab on a folder of runs of its own; the autoencoder loses nothing, and a step takes half a second."""
    monkeypatch.setattr(shared_tab.studio, "runs", runs)
    monkeypatch.setattr(app.teach.tab, "reconstruct", lambda pipe, pictures: [p.copy() for p in pictures])
    monkeypatch.setattr(app.teach.tab, "measure_step", lambda *asked: 0.5)
    return shared_tab


def zones(names: list[str], *drops: list[str]) -> list[Any]:
    """What the drop zones hold."""
    empty = MOST_CLASSES - len(drops)
    return [*names, *[""] * (MOST_CLASSES - len(names)), *drops, *[[]] * empty]


# --- pictures that are dropped ---------------------------------------------------------------------------------------


def test_pictures_are_cropped_doubles_and_what_cannot_be_read_are_told(drawings: list[str], tmp_path: Path) -> None:
    """Catches a whole drop that is refused for one file, a copy that is learnt twice, and crops of another size."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(drawings[0]).read_bytes()[:60])
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    double = shutil.copy(drawings[1], tmp_path / "double.png")
    draft = Draft()
    draft.read([[*drawings, str(double), str(broken), str(text)]], 32)
    pictures = {picture.name: picture for picture in draft.classes[0][""]}
    assert [Image.open(crop).size for crop in draft.learnt] == [(32, 32)] * 3
    assert (pictures["double.png"].twin, pictures["double.png"].learnt) == ("1.png", None)
    assert "cut short" in pictures["broken.png"].problem or "truncated" in pictures["broken.png"].problem
    assert pictures["notes.png"].problem.startswith("This is not a PNG/")
    assert draft.named(["cat"]) == {"cat": draft.learnt}
    folder = draft.folder
    draft.close()
    assert not folder.exists() and not draft.learnt


def test_what_was_looked_at_is_not_looked_at_again(drawings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two thousand pictures that are cropped once more for one that is added to another class."""
    draft, looked = Draft(), []
    real = dropped.check_pictures
    monkeypatch.setattr(dropped, "check_pictures", lambda files, size: looked.append(len(files)) or real(files, size))
    draft.read([drawings[:2]], 32)
    draft.read([drawings[:2], drawings[2:]], 32)
    draft.read([drawings[:2], drawings[2:]], 16)
    assert looked == [2, 1, 2, 1] and Image.open(draft.learnt[0]).size == (16, 16)
    draft.close()


@pytest.mark.parametrize(
    "names, words",
    [
        ([" "], "Give the class of these pictures a name"),
        (["a:0.5"], "no comma and no colon"),
        (["x" * 61], "at most 60 printable characters"),
        (["line\x07"], "at most 60 printable characters"),
        (["cat", " cat"], "Two classes are called cat"),
    ],
)
def test_a_class_needs_a_name_of_its_own(drawings: list[str], names: list[str], words: str) -> None:
    """Catches names that mixes of classes could not tell apart."""
    draft = Draft()
    draft.read([drawings[:1], drawings[1:]][: len(names)], 32)
    with pytest.raises(ValueError, match=words):
        draft.named(names)
    draft.close()


def test_no_pictures_are_no_class(drawings: list[str], tmp_path: Path) -> None:
    draft = Draft()
    with pytest.raises(ValueError, match="Drop some pictures"):
        draft.named(["cat"])
    empty = tmp_path / "empty.png"
    empty.touch()
    draft.read([[str(empty)]], 32)
    with pytest.raises(ValueError, match="No picture of cat can be used"):
        draft.named(["cat"])
    draft.close()


def test_too_many_pictures_are_refused(drawings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "MOST_PICTURES", 2)
    draft = Draft()
    with pytest.raises(ValueError, match="2 pictures are the most"):
        draft.read([drawings[:1], drawings[1:]], 32)
    draft.close()


def zipped(path: Path, kind: int = zipfile.ZIP_DEFLATED, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_folders_brings_its_classes(drawings: list[str], tmp_path: Path) -> None:
    """Catches what an operating system adds, taken for pictures, and names that lead out of the folder."""
    data = [Path(file).read_bytes() for file in drawings]
    names = {"set/owl/a.png": data[0], "../../../bat/../b.png": data[1], "/etc/bat/c.png": data[2]}
    names |= {"__MACOSX/set/owl/._a.png": b"", "set/.DS_Store": b"", ".": b""}
    file = zipped(tmp_path / "set.zip", **names)
    draft = Draft()
    draft.read([[str(file)]], 32)
    assert {name: len(found) for name, found in draft.named([""]).items()} == {"owl": 1, "bat": 1}
    assert all(path.is_relative_to(draft.folder) for path in draft.folder.rglob("*"))
    assert [path.name for path in tmp_path.glob("*.*")] == ["set.zip"]
    draft.close()


@pytest.mark.parametrize("above", ["", "owl/"])
def test_a_zip_of_one_folder_is_the_class_that_is_named(drawings: list[str], tmp_path: Path, above: str) -> None:
    file = zipped(tmp_path / "set.zip", **{f"{above}{i}.png": Path(f).read_bytes() for i, f in enumerate(drawings)})
    draft = Draft()
    draft.read([[str(file)]], 32)
    assert {name: len(found) for name, found in draft.named(["bird"]).items()} == {"bird": 3}
    draft.close()


def test_a_zip_that_is_too_much_or_damaged_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a bomb, and tracebacks."""
    monkeypatch.setattr(dropped, "MOST_UNPACKED", 10**6)
    monkeypatch.setattr(dropped, "MOST_PICTURES", 3)
    bomb = zipped(tmp_path / "bomb.zip", **{"a.png": bytes(10**6 + 1)})
    many = zipped(tmp_path / "many.zip", **{f"{i}.png": b"x" for i in range(4)})
    flood = zipped(tmp_path / "flood.zip", **{f"{i}.png": b"x" for i in range(7)})
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(many.read_bytes()[:-30])
    flipped = tmp_path / "flipped.zip"
    good = zipped(tmp_path / "good.zip", zipfile.ZIP_STORED, **{"a.png": b"abc" * 99})
    flipped.write_bytes(good.read_bytes().replace(b"abc", b"abd", 1))
    odd = zipped(tmp_path / "odd.zip", zipfile.ZIP_BZIP2, **{"a.png": b"x"})
    for file, words in {
        bomb: "unpacks to more than",
        many: "holds more than 3 pictures",
        flood: "holds more than 3 pictures",
        damaged: "no zip that can be read",
        flipped: "no zip that can be read",
        odd: "packed in an unusual way",
    }.items():
        with pytest.raises(ValueError, match=words):
            unpack(file, tmp_path / "out" / file.stem)
    assert not any(path.stat().st_size > 1000 for path in (tmp_path / "out").rglob("*.png"))


def test_only_what_was_uploaded_can_be_learnt_from() -> None:
    """Catches a path of the server in a request."""
    with pytest.raises(gr.Error, match="Drop the pictures once more"):
        PictureDrop(file_count="multiple").preprocess([gr.FileData(path="/etc/passwd")])


# --- what the page shows before --------------------------------------------------------------------------------------


def test_the_contact_sheet_comes_before_what_the_autoencoder_makes_of_it(tab: Teach, drawings: list[str]) -> None:
    """Catches a page that is empty while a run of another visitor keeps the model."""
    draft = Draft()
    first, crops, last = tab.check(draft, "shapes", *zones(["<b>cat</b>"], drawings))
    assert first[tab.start] == gr.update(interactive=False) and last[tab.start] == gr.update(interactive=True)
    assert (crops[tab.stage].count("<img"), last[tab.stage].count("<img")) == (3, 6)
    assert "&lt;b&gt;cat&lt;/b&gt;" in last[tab.stage] and "3 pictures to learn from" in last[tab.status]
    (none,) = tab.check(draft, "shapes", *zones([]))
    assert none[tab.status] == READY and draft.folder is None


def test_a_look_that_comes_late_does_not_leave_an_old_sheet(tab: Teach) -> None:
    """Catches frames that stay empty: a look at the first sheet, whose answer came after the second one was shown."""
    draft = Draft(sheet="cropped")
    late = tab.look(NEW, draft, View(0))
    draft.sheet = "cropped and redrawn"
    assert tab.look(NEW, draft, late[tab.view])[tab.stage] == "cropped and redrawn"


def test_how_long_it_takes_is_told_once_it_is_measured(tab: Teach, drawings: list[str]) -> None:
    """Half a second a step, in four fifths of the time: the rest draws samples and saves."""
    draft = Draft()
    assert tab.estimate(draft, "shapes", 10, 0, 8) == ""
    draft.read([drawings], 32)
    assert "0.5 s on this machine, so 10 min are about 960 steps" in tab.estimate(draft, "shapes", 10, 0, 8)
    assert "so 1,440 steps are about 15.0 min" in tab.estimate(draft, "shapes", 10, 1440, 8)
    with pytest.raises(gr.Error, match="batch size must be a whole number from 1 to 256"):
        tab.estimate(draft, "shapes", 10, 0, 0)
    draft.close()


# --- a teaching ------------------------------------------------------------------------------------------------------


def test_teach_starts_a_run_of_its_own(tab: Teach, drawings: list[str], runs: Path, started: list[TeachPlan]) -> None:
    """Catches pictures that lie where uploads are deleted, class names that become paths, lost settings."""
    draft = Draft()
    settings = SETTINGS | {"steps": 4, "mirror": False, "seed": 3}
    asked = (View(), draft, "shapes", *zones(["../My Cat", "dog"], drawings[:2], drawings[2:]), *settings.values())
    shown = tab.begin(*asked)
    draft.close()
    (plan,) = started
    folder = runs / "taught-my-cat-dog"
    assert (plan.model, Path(plan.out)) == ("A", folder)
    assert (plan.minutes, plan.steps, plan.mirror, plan.seed, plan.keep_old) == (None, 4, False, 3, True)
    assert plan.pictures == {"../My Cat": str(folder / "pictures" / "0"), "dog": str(folder / "pictures" / "1")}
    assert [len(list(Path(path).iterdir())) for path in plan.pictures.values()] == [2, 1]
    assert shown[tab.run]["value"] == "taught-my-cat-dog"
    assert new_folder(runs, ["My cat", "dog"]).name == "taught-my-cat-dog-2"
    assert new_folder(runs, ["//"]).name == "taught-"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("one teaching at a time")])
def test_what_cannot_start_is_told_and_leaves_nothing(
    tab: Teach, drawings: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(plan: TeachPlan) -> None:
        raise error

    monkeypatch.setattr(process, "start", refuse)
    with pytest.raises(gr.Error, match=r"No space left on device|One teaching at a time"):
        tab.begin(View(), Draft(), "shapes", *zones(["cat"], drawings), *SETTINGS.values())
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize("change", [{"minutes": 0}, {"steps": -1}, {"learning_rate": "fast"}, {"mirror": None}])
def test_settings_that_make_no_sense_are_refused(runs: Path, tmp_path: Path, change: dict) -> None:
    """Catches a process that dies of what a stranger sent."""
    with pytest.raises(ValueError, match=r"The (number|learning|choice)"):
        begin(runs, "A", {"cat": []}, SETTINGS | change)
    assert not runs.exists()


def write_teaching(runs: Path, name: str = "taught-owl", phase: str = "learning", step: int = 2) -> Path:
    """A run folder as `python -m train.teach` has it after two steps of four."""
    folder = runs / name
    pictures = folder / "pictures" / "0"
    pictures.mkdir(parents=True)
    TeachPlan("A", {"owl": str(pictures)}, str(folder), steps=4).save()
    run = Run(folder)
    training = {"steps": 4, "batch_size": 2}
    run.write_config({"model": "m", "training": training, "samples_per_class": 2, "classes": ["owl", "cat", "dog"]})
    run.log({"step": step, "loss": 1.0, "images_per_second": 8.0})
    run.write_sample(1, picture())
    run.write_sample(step, picture())
    run.write_checkpoint(step, write_checkpoint)
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"id2label": {0: "owl"}}))
    told = {"phase": phase, "step": step, "steps": 4, "message": "", "seconds_left": None, "seconds": 9.0, "time": 0.0}
    (folder / "status.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def at_work(runs: Path) -> Iterator[Path]:
    """A run folder whose process is at work: it holds the machine's lock, and does nothing else."""
    folder = write_teaching(runs)
    lock = take_turn(folder)
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    note_process(lock, folder, child.pid)
    os.close(lock)
    yield folder
    child.terminate()
    child.wait(10)


def test_an_app_that_was_started_again_finds_what_is_taught(
    tab: Teach, at_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder of temporary files is another one. Catches a run that only the app which started it knows of, and one
    that a second is started beside."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "of this app"))
    shown = tab.look(NEW, Draft(), View())
    assert shown[tab.run]["value"] == at_work.name
    assert "Learning: step <b>2</b> of 4" in shown[tab.status]
    visible = {button: shown[button]["visible"] for button in (tab.start, tab.stop, tab.go_on, tab.generate, tab.watch)}
    assert visible == {tab.start: False, tab.stop: True, tab.go_on: False, tab.generate: True, tab.watch: True}
    assert shown[tab.stage].count("<figcaption>owl<") == 2 and "cat" not in shown[tab.stage]
    assert "<figcaption>step 1<" in shown[tab.stage] and "<figcaption>step 2<" in shown[tab.stage]
    assert tab.look(at_work.name, Draft(), shown[tab.view]) == gr.skip()
    assert tab.look(NEW, Draft(), shown[tab.view])[tab.status] == BUSY
    with pytest.raises(gr.Error, match="One teaching at a time"):
        tab.resume(at_work.name, Draft(), View())

    tab.end(at_work.name, Draft(), View())
    while process.running_now():
        pass
    over = tab.look(at_work.name, Draft(), shown[tab.view])
    assert "Stopped: step <b>2</b> of 4" in over[tab.status]
    assert over[tab.go_on]["visible"] and over[tab.start]["visible"] and not over[tab.stop]["visible"]


def test_a_process_that_crashed_says_its_last_line(tab: Teach, at_work: Path) -> None:
    """Catches a page that waits for ever for a run that is dead."""
    (at_work / "teach.log").write_text("50%\rMemoryError: <b>all</b> is full\n")
    os.kill(holder()["pid"], signal.SIGKILL)
    while process.running_now():
        pass
    shown = tab.look(at_work.name, Draft(), View(0))
    assert "Ended too early: step <b>2</b> of 4" in shown[tab.status]
    assert "MemoryError: &lt;b&gt;all&lt;/b&gt; is full" in shown[tab.status] and shown[tab.go_on]["visible"]


def test_a_run_that_is_none_of_this_app_is_left_alone(tab: Teach, at_work: Path, tmp_path: Path) -> None:
    """Catches a visitor who stops what somebody teaches on the command line, elsewhere."""
    at_work.parent.rename(tmp_path / "elsewhere")
    shown = tab.look(NEW, Draft(), View())
    assert (shown[tab.status], shown[tab.stop]["interactive"]) == (BUSY, False)
    tab.end(NEW, Draft(), View())
    assert process.running_now() == at_work


def test_a_teaching_that_is_over_opens_in_generate_with_its_class(
    tab: Teach, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the model of before, another class, and a run at its end that is offered to go on."""
    name = write_teaching(runs, phase="done", step=4).name
    shown = tab.look(name, Draft(), View(0))
    assert (shown[tab.go_on]["visible"], shown[tab.generate]["visible"]) == (False, True)
    assert "width: 100.0%" in shown[tab.status] and "Learnt: step <b>4</b> of 4 · 9.0 s in all." in shown[tab.status]
    info = replace(tab.studio.info, name=f"{name} @ 4", labels={0: "owl", 1: "cat"})
    monkeypatch.setattr(tab.engine, "describe", lambda model: {info.name: info}[model])
    monkeypatch.setattr(tab.engine, "models", {info.name: "there"})
    opened = tab.open_in_generate(name)
    assert opened[tab.studio.model]["value"] == info.name
    assert (0,) * 4 in [opened.get(control) for control in tab.studio.shown] or [0] in [
        update["value"] for update in opened.values() if isinstance(update, dict) and "choices" in update
    ]
    followed = tab.open_progress(name)
    assert name in [update.get("value") for update in followed.values() if isinstance(update, dict)]


def test_a_name_is_no_path(tab: Teach, runs: Path, tmp_path: Path) -> None:
    """Catches a run of elsewhere that a stranger names, or that a link leads to."""
    write_teaching(tmp_path, "secret")
    runs.mkdir()
    (runs / "link").symlink_to(tmp_path / "secret")
    for name in ("../secret", str(tmp_path / "secret"), "link", "secret"):
        for ask in (tab.open_in_generate, lambda name: tab.resume(name, Draft(), View())):
            with pytest.raises(gr.Error, match="There is no run"):
                ask(name)


@pytest.mark.parametrize(
    "file, content",
    [
        *((file, content) for file in ("status.json", "config.json") for content in ("{", "[1]", "{}")),
        ("status.json", '{"phase": "learning", "steps": "many"}'),
        ("teach.json", "{}"),
        ("samples/step_00000002.png", "no picture"),
    ],
)
def test_a_damaged_run_does_not_take_the_page_with_it(tab: Teach, runs: Path, file: str, content: str) -> None:
    """Catches a page that shows nothing any more, and an error every two seconds."""
    folder = write_teaching(runs)
    (folder / file).write_text(content)
    assert tab.look(folder.name, Draft(), View(0))[tab.start]["visible"]


# --- who may ---------------------------------------------------------------------------------------------------------


def test_strangers_teach_only_where_they_are_asked_in() -> None:
    """Catches a tab that fills the disk of whoever shows the app to others."""
    assert Serving().teaches and not Serving("0.0.0.0").teaches and not Serving(root_path="/studio").teaches
    assert Serving("0.0.0.0", teach=True).teaches
    assert (Serving().limits.files, Serving("0.0.0.0").limits.files) == (2000, 4)
    assert "teaching" in Serving("0.0.0.0", teach=True).describe("runs")
    assert "teaching" not in Serving("0.0.0.0").describe("runs")
    parse = runpy.run_path(str(ROOT / "app.py"))["parse_arguments"]
    assert (parse([]).teach, parse(["--teach"]).teach) == (False, True)
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    page = build(engine, Path("runs"), teach=False)
    names = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert "Walk" in names and "Teach" not in names
    assert not Serving(share=True).teaches
