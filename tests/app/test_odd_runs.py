"""Run folders as strangers leave them: pipes, huge logs, sheets of odd shapes, names that are no text, and files that
shrink or are replaced while they are read."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from app.engine import logs
from app.engine.logs import Log
from app.engine.runs import checkpoint_folders, find_runs, look_at
from app.progress.timeline import samples_timeline
from app.progress.view import view
from mdt_core.runs import Run
from tests.helpers.run_folders import see, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "runs" / "mdt")


@pytest.fixture
def within_seconds() -> Iterator[None]:
    """A pipe that is opened waits for ever: end the test instead."""

    def end(*_: object) -> None:
        raise TimeoutError("a pipe was opened")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has a hundred letters at most
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


WEIGHTS = "checkpoints/step_00001000/transformer"
PARTS = [
    *("config.json", "metrics.jsonl", "evaluation.jsonl", "samples/step_00000100.png", "samples/step_00000200.png"),
    *("pipeline/model_index.json", "pipeline/scheduler.json", "checkpoints/step_00000100"),
    *(f"{WEIGHTS}/config.json", f"{WEIGHTS}/diffusion_pytorch_model.safetensors", f"{WEIGHTS}/notes"),
]


@pytest.mark.parametrize("make", [make_pipe, make_socket])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_no_file_is_passed_over(run: Run, part: str, make, within_seconds: None) -> None:
    """Catches a page that waits for ever on a pipe, and a run that is lost for it."""
    make(run.folder / part)
    seen = see(run.folder.parent)
    assert seen.problem == ""
    assert list(seen.sheets) == ([10, 1000] if part.endswith("100.png") else [10, 100, 1000])
    assert list(seen.checkpoints) == [1000]
    opens = not part.startswith(("pipeline/", WEIGHTS))
    assert (seen.checkpoints[1000] == "") == opens == bool(checkpoint_folders(run.folder))
    view([seen], 0, lambda sheet: "x")


def test_a_folder_of_pipes_is_no_run(tmp_path: Path, within_seconds: None) -> None:
    """Catches a list of runs that hangs on a configuration that is a pipe."""
    (tmp_path / "pipes").mkdir()
    make_pipe(tmp_path / "pipes" / "config.json")
    assert find_runs([tmp_path]) == {}


@pytest.mark.parametrize(
    ("size", "rows"), [((20_000, 1), 1), ((1, 20_000), 1), ((24, 16), 1 << 20), ((24, 16), 0), ((24, 16), -2)]
)
def test_a_sheet_that_cannot_be_one_is_told(run: Run, size: tuple[int, int], rows: int) -> None:
    """Catches a page of millions of tiles, and a division by nothing."""
    run.write_config(run.config | {"samples_per_class": rows})
    run.write_sample(100, Image.new("RGB", size))
    seen = see(run.folder.parent)
    words = f"a picture of {size[0]} x {size[1]} pixels is no sheet with {rows:,} samples of each class"
    assert f"step_00000100.png: {words}" in seen.notes
    assert 100 not in seen.sheets
    assert len(view([seen], 0, lambda sheet: "x")) < 1e5
    if seen.sheets:
        assert samples_timeline([seen], most=9).steps == [10, 1000]


# --- logs --------------------------------------------------------------------------------------------------------


def rows(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in steps)


def test_a_log_is_read_once_and_then_only_where_it_has_grown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a look that costs as much as the log is long, every two seconds while training goes on."""
    read: list[bytes] = []
    monkeypatch.setattr(logs, "parse", lambda line, parse=logs.parse: read.append(line) or parse(line))
    see(run.folder.parent)
    assert len(read) == 6  # of both logs
    run.log({"step": 1001, "loss": 0.5})
    assert list(see(run.folder.parent).loss)[-1] == (1001, 0.5)
    assert len(read) == 7


def test_a_log_may_change_in_any_way(tmp_path: Path) -> None:
    """Catches points of a file that is gone, rows read twice or from their middle, and one that is never read."""
    path = tmp_path / "metrics.jsonl"
    log = Log(path, lambda row: "loss")

    def steps() -> list[float]:
        curve, last = log.read()
        assert last.get("step", 0) == (curve.steps[-1] if curve else 0)
        assert [value * 2 for _, value in curve] == curve.steps.tolist()
        return curve.steps.tolist()

    assert steps() == []
    path.write_text(rows(1, 2, 3)[:-10])
    assert steps() == [1, 2]  # the last row is half written
    path.write_text(rows(1, 2, 3))
    assert steps() == [1, 2, 3]
    path.write_text(rows(5))
    assert steps() == [5]  # it shrank
    path.write_text(rows(6, 7, 8, 9))
    assert steps() == [6, 7, 8, 9]  # rewritten, and longer
    (tmp_path / "other").write_text(rows(6, 7, 8, 9, 10)[:-1])
    (tmp_path / "other").rename(path)
    assert steps() == [6, 7, 8, 9, 10]  # the last row lacks its end of line alone
    with path.open("a") as file:
        file.write("\n" + rows(11) + '{"step": "x"}\n[]\n\xff\n' + "[" * 99_999 + "\n" + rows(12, 11))
    assert steps() == [6, 7, 8, 9, 10, 11, 12]
    path.unlink()
    assert steps() == []


def test_of_a_step_logged_again_the_later_row_counts(tmp_path: Path) -> None:
    """Catches the curve of a resumed run that goes back and forth."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(rows(1, 2, 3) + '{"step": 2, "loss": 9}\n')
    assert list(Log(path, lambda row: "loss").read()[0]) == [(1, 0.5), (2, 9), (3, 1.5)]


def test_a_long_log_is_read_in_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that shows nothing until half a gigabyte is read, and a part that is never read."""
    monkeypatch.setattr(logs, "AT_ONCE", 100)
    runs = run.folder.parent
    (run.folder / "metrics.jsonl").write_text(rows(*range(1, 11)))
    looks = [see(runs)]
    while looks[-1].notes:
        looks.append(see(runs))
    assert looks[0].notes == ("The log is long: it has been read up to step 4.",)
    assert [len(look.loss) for look in looks] == [4, 8, 10]
    assert len({look.version for look in looks}) == 3
    assert see(runs) is looks[-1]


def test_a_line_without_an_end_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file of gigabytes without a line break that is taken in whole."""
    monkeypatch.setattr(logs, "LONGEST", 64)
    (tmp_path / "metrics.jsonl").write_text("x" * 1000 + "\n" + rows(1))
    assert list(Log(tmp_path / "metrics.jsonl", lambda row: "loss").read()[0]) == [(1, 0.5)]


# --- names -------------------------------------------------------------------------------------------------------


def test_a_name_need_not_be_text(tmp_path: Path) -> None:
    """Catches a page that cannot be sent for a folder's name that is not UTF-8, or for half a character in JSON."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    run = write_run(folder)
    run.write_config(run.config | {"model": "half \ud800", "classes": ["cat", "\udfff", "owl"]})
    (folder / "pipeline" / "model_index.json").write_text('{"id2label": {"0": "\\ud800"}}')
    weights = next((folder / WEIGHTS).glob("*.safetensors"))
    weights.rename(weights.with_name(os.fsdecode(b"\xff.safetensors")))
    weights.with_name(os.fsdecode(b"\xff.safetensors")).write_bytes(b"")
    found = find_runs([tmp_path])
    seen = look_at("caf\\udce9", found)
    assert (seen.problem, seen.labels) == ("", {0: "\\ud800"})
    page = view([seen], 0, lambda sheet: "x") + "".join(found) + seen.checkpoints[1000]
    assert "half \\ud800" in page and page.encode()


def test_a_sheet_that_is_replaced_is_another(run: Run) -> None:
    """Catches an old picture that stays on the page because the new one was given its time."""
    sheet = see(run.folder.parent).sheets[100]
    times = (sheet.path.stat().st_atime_ns, sheet.path.stat().st_mtime_ns)
    run.write_sample(100, Image.new("RGB", (24, 16), "red"))
    os.utime(sheet.path, ns=times)
    assert see(run.folder.parent).sheets[100].version != sheet.version
