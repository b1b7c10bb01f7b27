"""A folder of pictures becomes a class: the command, its run folder, and what happens when it is interrupted."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from mdt_core.pipeline.open import open_pipeline
from mdt_core.pipeline.settings import sampling_presets
from mdt_core.runs import Run
from mdt_core.training.checkpoints import TrainingState
from mdt_core.training.step_timing import seconds_per_step
from tests.helpers.tiny import NAMES, tiny_pipeline
from train.latents.dataset import Latents
from train.latents.images import read_square
from train.teach import process, teaching
from train.teach.__main__ import main
from train.teach.pictures import ClassFolders, check_pictures, reconstruct
from train.teach.plan import TeachPlan
from train.teach.status import LOG, Report, running_now, status, take_turn
from train.teach.teaching import SHEETS, Stopped, Teaching, sheet_steps, taught_settings, teach


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's lock lies where this test alone looks, and so do the processes that it starts; each teaching, of
    which a test may have two, chooses its precision, which accelerate keeps for a whole process."""

    def own_accelerator(**settings) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(**settings)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(teaching, "Accelerator", own_accelerator)
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
    assert not pictures_equal(pipe("fox", seeds=0), pipe("owl", seeds=0))  # each has learnt its own
    assert open_pipeline(run.checkpoints[4]).id2label == pipe.id2label
    assert list(run.checkpoints) == [4] and [path.name for path in run.checkpoints[4].iterdir()] == ["transformer"]
    assert run.config["classes"] == ["fox", "owl"] and max(run.samples) == 4
    capsys.readouterr()
    main(arguments(world, run.folder))  # nothing is left to do
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(arguments(world, run.folder, steps=5))
    assert "another teaching (other steps): choose another --out" in capsys.readouterr().err


def pictures_equal(one, other) -> bool:
    return np.array_equal(np.asarray(one.images[0]), np.asarray(other.images[0]))


def test_the_old_classes_draw_what_they_drew(world, tmp_path):
    """Catches an adapter, or a row of the class table, that reaches beyond the classes that are taught; and one for a
    class that the model knew, in a model that was taught before."""
    settings = {"learning_rate": 0.05, "mirror": False}
    teach(plan(world, tmp_path / "first", **settings))
    before, after = open_pipeline(world / "model"), open_pipeline(tmp_path / "first" / "pipeline")
    dog = {"dog": str(world / "pictures" / "owl")}
    again = TeachPlan(
        str(tmp_path / "first" / "pipeline"), dog, str(tmp_path / "second"), steps=4, batch_size=4, **settings
    )
    teach(again)
    second = open_pipeline(tmp_path / "second" / "pipeline")
    assert second.id2label == after.id2label and second.transformer.config.adapters == [[3], [1]]
    x, t = torch.randn(5, *before.latent_shape), torch.full((5,), 500)
    old, fox = torch.tensor([0, 1, 2]), torch.tensor([3])
    with torch.no_grad():
        known = [pipe.transformer(x[:3], t[:3], old) for pipe in (before, after, second)]
        taught = [pipe.transformer(x[:1], t[:1], fox) for pipe in (after, second)]
    torch.testing.assert_close(known[0].half().float(), known[1], atol=5e-3, rtol=0)  # kept in float16
    torch.testing.assert_close(known[1][::2], known[2][::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(*taught, atol=1e-5, rtol=0)
    assert (known[1][1] - known[2][1]).abs().max() > 0.01  # the dog has learnt


def test_what_is_taught_is_drawn_from_pure_noise_and_without_a_student():
    """Catches new classes in the colours of the old ones, and few steps that only those can be drawn in."""
    fast = {"distilled": True, "num_inference_steps": 4, "guidance_scale": 1.0}
    own = {"first_timestep": 799, "num_inference_steps": 8, "presets": {"fast": fast, "slow": {"sampler": "ddim"}}}
    presets = sampling_presets(taught_settings(own))
    assert {name: (s.first_timestep, s.num_inference_steps, s.distilled) for name, s in presets.items()} == {
        "fast": (999, 6, False),
        "balanced": (999, 10, False),
        "slow": (999, 10, False),
    }
    assert sampling_presets(taught_settings(None)) == sampling_presets(None)
    most = taught_settings({"first_timestep": 799, "num_inference_steps": 250})  # all that dpm++ takes
    assert sampling_presets(most)["balanced"].num_inference_steps == 250
    assert taught_settings(taught_settings(own)) == taught_settings(own)
    for kind in ("mask", "both"):
        guided = sampling_presets(taught_settings({**own, "guidance_kind": kind, "guidance_scale": 2.0}))
        assert {(each.guidance_kind, each.guidance_scale) for each in guided.values()} == {("mask", 3.0)}


@pytest.mark.parametrize("steps", [1, 4, 100, 128, 2693])
def test_samples_are_drawn_at_few_steps_none_beside_another(steps):
    """Catches a picture at step 2,688 of 2,693, beside the last one."""
    drawn = sorted(sheet_steps(steps))
    assert len(drawn) <= SHEETS and drawn[-1] == steps
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(drawn))


def test_few_pictures_are_seen_in_several_crops(world):
    """Catches crops that are all alike, or other ones each time, and many pictures that are encoded four times."""
    folder = {"fox": str(world / "pictures" / "fox")}
    images = ClassFolders(folder, {0: "fox"}, 32)
    assert len(images) == 12 and images[0][0].shape == (3, 32, 32)
    assert np.array_equal(images[4][0], images[4][0]) and not np.array_equal(images[1][0], images[4][0])
    whole = np.asarray(read_square(next(iter(sorted((world / "pictures" / "fox").iterdir()))), 32), np.float32)
    assert np.abs(images[0][0].transpose(1, 2, 0) - whole).mean() < 12  # brought to size in two steps


def test_forget_leaves_the_new_classes_alone(world, tmp_path):
    main([*arguments(world, tmp_path / "run", steps=1), "--forget"])
    assert open_pipeline(tmp_path / "run" / "pipeline").id2label == {0: "fox", 1: "owl"}


@pytest.mark.parametrize(("passed", "steps"), [(60.0, 96), (500.0, 1)])
def test_minutes_become_the_steps_that_are_left_of_them(passed, steps):
    """Catches minutes that begin with the training, after the pictures were encoded."""
    asked = TeachPlan("m", {"fox": "x"}, "o", minutes=2)
    teaching = SimpleNamespace(plan=asked, report=SimpleNamespace(seconds=passed))
    assert Teaching.training_config(teaching, seconds_per_step=0.5).steps == steps


def test_sigterm_saves_and_the_same_command_goes_on(world, tmp_path, monkeypatch):
    """Catches steps that are lost, pictures encoded twice, and a stop that counts as a failure."""
    run, batch = Run(tmp_path / "run"), Latents.batch
    monkeypatch.setattr(Latents, "batch", lambda *of: os.kill(os.getpid(), signal.SIGTERM) or batch(*of))
    main(arguments(world, run.folder))
    assert status(run.folder).phase == "stopped" and list(run.checkpoints) == [1]
    encoded = next((run.folder / "latents").iterdir()).stat().st_mtime_ns
    monkeypatch.setattr(Latents, "batch", batch)
    main(arguments(world, run.folder))
    assert status(run.folder).phase == "done" and list(run.checkpoints) == [4]
    assert next((run.folder / "latents").iterdir()).stat().st_mtime_ns == encoded
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]


def test_a_class_of_which_nothing_can_be_read_is_not_taught(world, tmp_path, capsys):
    """Catches a model with a class that it has seen no picture of."""
    pictures = shutil.copytree(world / "pictures", tmp_path / "pictures")
    for file in (pictures / "owl").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        main([str(pictures), *arguments(world, tmp_path / "run")[1:]])
    assert "of owl no picture can be read" in capsys.readouterr().err.splitlines()[-1]
    broken = (tmp_path / "run" / "latents" / "train-broken.txt").read_text().splitlines()
    assert len(broken) == 3  # each once, however many crops were to be made


@pytest.mark.parametrize("change", ["gone", "other"])
def test_what_is_encoded_needs_no_pictures_and_allows_no_others(world, tmp_path, monkeypatch, capsys, change):
    """Catches drawings that were added to a folder and are silently not learnt."""
    pictures = shutil.copytree(world / "pictures", tmp_path / "pictures")
    command = [str(pictures / "fox"), *arguments(world, tmp_path / "run")[1:]]

    def cut_off(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as once:
        once.setattr(Teaching, "trained", cut_off)
        main(command)
    if change == "gone":
        (pictures / "fox").rename(tmp_path / "elsewhere")
        main(["--resume", str(tmp_path / "run")])
        assert status(tmp_path / "run").phase == "done"
    else:
        shutil.copy(pictures / "owl" / "0.png", pictures / "fox" / "3.png")
        with pytest.raises(SystemExit):
            main(command)
        assert "other images" in capsys.readouterr().err.splitlines()[-1]


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
    Report(Run(tmp_path))("encoding", 3, 10, seconds_left=50.0)
    assert status(tmp_path).phase == "failed"  # nobody has the lock
    lock = take_turn(tmp_path)
    time.sleep(0.05)
    now = status(tmp_path)
    assert (now.phase, now.step, now.steps, now.running) == ("encoding", 3, 10, True)
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


def test_the_time_of_a_step_is_measured_on_a_copy():
    """Catches a pipeline that is left in training mode, with gradients, or with another number of threads."""
    pipe, threads = tiny_pipeline(), torch.get_num_threads()
    seconds, dtype = seconds_per_step(pipe.transformer, 8, threads=1)
    assert 0 < seconds < 60 and dtype in (torch.float32, torch.bfloat16)
    assert not pipe.transformer.training and all(p.grad is None for p in pipe.transformer.parameters())
    assert torch.get_num_threads() == threads
