"""A folder of pictures becomes a class: the command, its run folder, and what happens when it is interrupted."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from mdt_core.pipeline.open import open_pipeline
from mdt_core.runs import Run
from mdt_core.training.checkpoints import TrainingState
from mdt_core.training.draws import Pass
from mdt_core.training.step_timing import seconds_per_step
from tests.helpers.tiny import NAMES, tiny_pipeline
from train.teach import process
from train.teach.__main__ import main
from train.teach.pictures import check_pictures, reconstruct
from train.teach.plan import TeachPlan
from train.teach.rehearsal import Lessons
from train.teach.status import LOG, Report, running_now, status, take_turn
from train.teach.teaching import Teaching


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's lock lies where this test alone looks, and so do the processes that it starts; each teaching may
    choose its precision, which accelerate keeps for a whole process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and pictures of two classes."""
    folder, random = tmp_path_factory.mktemp("teach"), np.random.default_rng(0)
    pipe = tiny_pipeline(std=0.02)
    pipe.fit_preview()
    pipe.save_pretrained(folder / "model")
    for name in ("fox", "owl"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    return folder


def arguments(world: Path, run: Path, steps: int = 4) -> list[str]:
    model, pictures = str(world / "model"), str(world / "pictures")
    return [pictures, "--from", model, "--out", str(run), "--steps", str(steps), "--batch-size", "4"]


def plan(world: Path, run: Path, **settings) -> TeachPlan:
    pictures = {"fox": str(world / "pictures" / "fox")}
    return TeachPlan(str(world / "model"), pictures, str(run), **{"steps": 4, "batch_size": 4} | settings)


def test_a_folder_of_folders_becomes_classes_and_the_old_ones_stay(world, tmp_path, capsys):
    """Catches classes that lose their place or name, a model that cannot be opened, a run folder that grows."""
    run = Run(tmp_path / "run")
    main(arguments(world, run.folder))
    now = status(run.folder)
    assert (now.phase, now.running, now.message) == ("done", False, "")
    pipe = open_pipeline(run.folder / "pipeline")
    assert pipe.id2label == dict(enumerate([*NAMES.values(), "fox", "owl"]))
    before = open_pipeline(world / "model").transformer.state_dict()["x_embedder.proj.weight"]
    assert not torch.equal(pipe.transformer.state_dict()["x_embedder.proj.weight"], before)
    assert open_pipeline(run.checkpoints[4]).id2label == pipe.id2label
    assert list(run.checkpoints) == [4] and [path.name for path in run.checkpoints[4].iterdir()] == ["transformer"]
    assert run.config["classes"] == ["fox", "owl", "dog", "sea lion"] and max(run.samples) == 4
    capsys.readouterr()
    main(arguments(world, run.folder))  # nothing is left to do
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(arguments(world, run.folder, steps=5))
    assert "another teaching (other steps): choose another --out" in capsys.readouterr().err


def test_forget_leaves_the_new_classes_alone(world, tmp_path):
    main([*arguments(world, tmp_path / "run", steps=1), "--forget"])
    assert open_pipeline(tmp_path / "run" / "pipeline").id2label == {0: "fox", 1: "owl"}
    assert not (tmp_path / "run" / "rehearsal").exists()


@pytest.mark.parametrize(("passed", "steps"), [(60.0, 90), (500.0, 1)])
def test_minutes_become_the_steps_that_are_left_of_them(passed, steps):
    """Catches minutes that begin with the training, after the pictures of the old classes were drawn."""
    asked = TeachPlan("m", {"fox": "x"}, "o", minutes=2)
    teaching = SimpleNamespace(plan=asked, report=SimpleNamespace(seconds=passed))
    assert Teaching.training_config(teaching, seconds_per_step=0.5).steps == steps


def test_sigterm_saves_and_the_same_command_goes_on(world, tmp_path, monkeypatch):
    """Catches steps that are lost, a rehearsal drawn twice, and a stop that counts as a failure."""
    run, batch = Run(tmp_path / "run"), Lessons.batch
    monkeypatch.setattr(Lessons, "batch", lambda *of: os.kill(os.getpid(), signal.SIGTERM) or batch(*of))
    main(arguments(world, run.folder))
    assert status(run.folder).phase == "stopped" and list(run.checkpoints) == [1]
    drawn = next((run.folder / "rehearsal").iterdir()).stat().st_mtime_ns
    monkeypatch.setattr(Lessons, "batch", batch)
    main(arguments(world, run.folder))
    assert status(run.folder).phase == "done" and list(run.checkpoints) == [4]
    assert next((run.folder / "rehearsal").iterdir()).stat().st_mtime_ns == drawn
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]


def test_a_full_disk_ends_with_a_sentence_that_is_kept(world, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TrainingState, "save", full)
    with pytest.raises(SystemExit) as end:
        main(arguments(world, tmp_path / "run"))
    now = status(tmp_path / "run")
    assert end.value.code == 1 and now.phase == "failed"
    assert "No space left on device" in now.message and "make room" in now.message
    assert f"python -m train.teach: {now.message}\n" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_of_its_own_is_killed_told_of_and_goes_on(world, tmp_path):
    """Catches two teachings at once, a killed one that counts as running, and one that cannot go on."""
    run = Run(tmp_path / "run")
    process.start(plan(world, run.folder, steps=60))
    assert running_now() == run.folder and status(run.folder).running
    with pytest.raises(ValueError, match=f"one teaching at a time: {run.folder} is running"):
        process.start(plan(world, tmp_path / "other"))
    deadline = time.monotonic() + 120
    while not (run.folder / LOG).stat().st_size and time.monotonic() < deadline:  # its first words: it has begun
        time.sleep(0.05)
    os.kill(process.holder()["pid"], signal.SIGKILL)
    while running_now() and time.monotonic() < deadline:
        time.sleep(0.05)
    now = status(run.folder)
    assert (now.phase, now.running, now.seconds_left) == ("failed", False, None)
    assert now.message.startswith("It ended without a report. The last thing it said: ")
    main(["--resume", str(run.folder)])
    assert status(run.folder).phase == "done" and running_now() is None


def test_a_process_is_given_half_of_the_cores_and_threads_that_do_not_spin(world, tmp_path, monkeypatch):
    """Catches a page that answers slowly while a model is taught."""
    started = []
    child = SimpleNamespace(pid=os.getpid(), wait=lambda: None)
    monkeypatch.setattr(process, "usable_cores", lambda: 6)
    monkeypatch.setattr(process.subprocess, "Popen", lambda command, **options: started.append(options) or child)
    process.start(plan(world, tmp_path / "run"))
    assert {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}.items() <= started[0]["env"].items()
    assert started[0]["start_new_session"] and running_now() is None  # the lock was the child's alone


def test_who_looks_at_the_lock_does_not_keep_it(tmp_path):
    assert running_now() is None
    lock = take_turn(tmp_path)
    assert running_now() == tmp_path
    os.close(lock)
    assert running_now() is None
    os.close(take_turn(tmp_path))


def test_a_status_counts_down_while_it_runs(tmp_path):
    """Catches a time that goes on after the end, and one that starts anew with every start."""
    Report(Run(tmp_path))("rehearsing", 3, 10, seconds_left=50.0)
    assert status(tmp_path).phase == "failed"  # nobody has the lock
    lock = take_turn(tmp_path)
    time.sleep(0.05)
    now = status(tmp_path)
    assert (now.phase, now.step, now.steps, now.running) == ("rehearsing", 3, 10, True)
    assert now.seconds >= 0.05 and now.seconds_left < 50
    os.close(lock)
    assert Report(Run(tmp_path)).seconds < now.seconds  # what passed unwritten is not counted


def test_a_process_that_is_stopped_before_it_listens_counts_as_stopped(tmp_path, monkeypatch):
    """Catches a stop in the seconds in which a process imports what it needs, told as a failure."""
    Report(Run(tmp_path))("starting")
    killed = []
    monkeypatch.setattr(os, "kill", lambda *of: killed.append(of))
    process.stop(tmp_path)
    assert not killed and status(tmp_path).phase == "failed"  # nothing runs there
    lock = take_turn(tmp_path)
    process.stop(tmp_path)
    os.close(lock)
    assert killed == [(os.getpid(), signal.SIGTERM)] and status(tmp_path).phase == "stopped"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"minutes": 3.0}, "either minutes or steps"),
        ({"pictures": {}}, "at least one class"),
        ({"pictures": {"a\nb": "x"}}, "printable characters"),
        ({"pictures": {"cat,dog:0.5": "x"}}, "no comma and no colon"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        TeachPlan(**{"model": "m", "pictures": {"fox": "x"}, "out": "o", "steps": 1} | wrong)


def test_a_plan_is_not_written_over_anything(tmp_path):
    asked = TeachPlan("m", {"fox": "x"}, str(tmp_path))
    (tmp_path / "pictures").mkdir()  # those that came by the browser
    asked.save()
    assert TeachPlan.load(tmp_path) == asked and asked.minutes == 10
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds something else"):
        TeachPlan("m", {"fox": "x"}, str(tmp_path / "other")).save()
    with pytest.raises(ValueError, match="holds no teaching"):
        TeachPlan.load(tmp_path / "other")


def test_pictures_are_cropped_refused_and_told_apart(tmp_path):
    """Catches a stretched picture, a copy that is taught twice, and one broken file that ends it all."""
    half = np.zeros((40, 80, 3), np.uint8)
    half[:, 40:] = 255  # black, then white: the middle square is half of each
    names = ["half.png", "again.jpg", "small.png", "broken.png", "white.png"]
    files = [tmp_path / name for name in names]
    Image.fromarray(half).save(files[0])
    Image.fromarray(half).save(files[1], quality=90)
    Image.new("RGB", (4, 4)).save(files[2])
    files[3].write_bytes(b"no picture")
    Image.new("RGB", (64, 64), "white").save(files[4])
    checked = check_pictures(files, 32)
    assert [each.file for each in checked] == list(map(str, files))
    assert [bool(each.problem) for each in checked] == [False, False, True, True, False]
    assert "4 x 4 pixels are too few" in checked[2].problem
    assert [each.duplicate_of for each in checked] == [None, str(files[0]), None, None, None]
    pixels = np.asarray(checked[0].picture)
    assert pixels.shape == (32, 32, 3) and pixels[:, :14].max() < 60 and pixels[:, 18:].min() > 195
    pipe = tiny_pipeline()
    made = reconstruct(pipe, [checked[0].picture, checked[4].picture])
    assert [picture.size for picture in made] == [(32, 32), (32, 32)]


class TwoPictures:
    """Latents of ones, of class 3."""

    def __len__(self) -> int:
        return 2

    def batch(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ones = torch.ones(len(indices), 8, 8, 8)
        return ones, 0 * ones, torch.full((len(indices),), 3)


def test_rehearsed_rows_are_held_to_the_teacher_and_new_ones_to_the_noise():
    """Catches rows mixed up, and the teacher asked for the student's null class, which is none of its own."""
    teacher = tiny_pipeline().transformer
    lessons = Lessons(TwoPictures(), (torch.randn(5, 8, 8, 8), torch.tensor([0, 1, 2, 0, 1])), teacher, null_class=4)
    assert len(lessons) == 10
    mean, std, labels = lessons.batch([0, 3, 5, 9])
    assert labels.tolist() == [3, 3, 0, 1] and not std.any() and torch.equal(mean[2:], lessons.latents[[0, 4]])
    labels = torch.tensor([3, 4, 0, 4])  # two of them dropped
    noise, timesteps = torch.randn(4, 8, 8, 8), torch.tensor([10, 20, 30, 40])
    with torch.no_grad():
        target = lessons.target(Pass(mean, timesteps, labels, noise, None))
        x_t = lessons.diffusion.add_noise(mean, noise, timesteps)[2:]
        expected = teacher(x_t, timesteps[2:], torch.tensor([0, 3])).chunk(2, dim=1)[0]  # 3: the teacher's null class
    assert torch.equal(target[:2], noise[:2])
    torch.testing.assert_close(target[2:], expected)


def test_the_time_of_a_step_is_measured_on_a_copy():
    """Catches a pipeline that is left in training mode, with gradients, or with another number of threads."""
    pipe, threads = tiny_pipeline(), torch.get_num_threads()
    seconds, dtype = seconds_per_step(pipe.transformer, 8, threads=1)
    assert 0 < seconds < 60 and dtype in (torch.float32, torch.bfloat16)
    assert not pipe.transformer.training and all(p.grad is None for p in pipe.transformer.parameters())
    assert torch.get_num_threads() == threads
