"""Temporary files: one folder that is bounded, and that nothing survives."""

import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from app.hosting.scratch import files_under, lock, make_room, sweep

ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal, sys, tempfile, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background of a shell ignores it
from app.hosting.ending import run_to_the_end
from app.hosting.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
import os
assert Path(os.environ["GRADIO_TEMP_DIR"]).is_relative_to(scratch.folder)
kept = tempfile.TemporaryDirectory(prefix="picture-")
(Path(kept.name) / "image.bmp").write_bytes(b"x" * 1000)
scratch.keep_small(10**9)

def work():
    print(scratch.folder, flush=True)
    time.sleep(60)

run_to_the_end(work, scratch.remove)
"""


def start(program: str, above: Path) -> tuple[subprocess.Popen, Path]:
    """A process with a folder in `above`, which it has told."""
    environment = {key: value for key, value in os.environ.items() if key != "GRADIO_TEMP_DIR"}
    command = [sys.executable, "-c", program, str(above)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


@pytest.fixture
def program(tmp_path: Path):
    """A process with a folder in `tmp_path`."""
    process, folder = start(PROGRAM, tmp_path)
    yield process, folder
    process.kill()
    process.wait()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_folder_goes_with_the_process(program, ending: signal.Signals) -> None:
    """48 folders were there before a restart, and 48 after. Catches SIGTERM, as of systemd, which skips it."""
    process, folder = program
    assert len(files_under(folder)) == 1
    process.send_signal(ending)
    process.wait(20)
    assert not folder.exists()


@pytest.mark.parametrize("endings", list(product([signal.SIGINT, signal.SIGTERM], repeat=2)))
def test_the_end_is_not_broken_off(tmp_path: Path, endings: tuple[signal.Signals, ...]) -> None:
    """A group that is ended gets the signal, and `make` passes it on. Catches a traceback in place of an end."""
    at_work = "    print(scratch.folder, flush=True)\n    time.sleep(60)\n"
    assert at_work in PROGRAM
    closing = "    try: print(scratch.folder, flush=True); time.sleep(60)\n    finally: time.sleep(1); print('end')\n"
    process, folder = start(PROGRAM.replace(at_work, closing), tmp_path)
    for ending in endings:
        process.send_signal(ending)
        time.sleep(0.3)
    told, complaints = process.communicate(timeout=20)
    assert told.strip() == "end" and not complaints
    assert process.returncode == 0
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_and_no_others(program, tmp_path: Path) -> None:
    """Catches a sweep that takes the folder of a server at work, or leaves that of one that is gone."""
    process, folder = program
    (tmp_path / "mdt-studio-notes").mkdir()  # somebody's own
    sweep(tmp_path)
    assert len(files_under(folder)) == 1
    with pytest.raises(OSError):
        lock(folder)
    process.kill()
    process.wait()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["mdt-studio-notes"]


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    """Catches a disk that uploads fill, and an upload that is deleted before an older one."""
    for age in range(5):
        file = tmp_path / str(age) / "a.png"
        file.parent.mkdir()
        file.write_bytes(b"x" * 100)
        os.utime(file, (time.time() - age,) * 2)
    make_room(tmp_path, 250)
    assert sorted(Path(path).parent.name for *_, path in files_under(tmp_path)) == ["0", "1"]
