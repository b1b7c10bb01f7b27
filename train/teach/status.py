"""How far a teaching is, in files alone, and the lock that lets one run at a time on a machine.

A process that teaches holds a lock for as long as it lives, however it ends; in the lock's file stand its number and
its run folder. What it does it writes into the run folder's status.json. So whoever looks, a restarted app as well,
finds what runs, and tells an end that nobody wrote down from a teaching that goes on.
"""

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from mdt_core.runs import Run, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PHASES = ("starting", "encoding", "learning", "finishing", "done", "stopped", "failed")
ENDED = PHASES[-3:]
LOG = "teach.log"  # what a process without a terminal says
LOCK_BYTES = 8192  # more than any path
STOP_ASKED = ".stop"  # a file as old as the last wish to stop


@dataclass(frozen=True)
class TeachStatus:
    """How far a teaching is."""

    phase: str  # one of PHASES
    step: int = 0  # of the phase: pictures of "encoding", training steps of "learning"
    steps: int = 0
    message: str = ""  # of "failed": why, in a sentence
    running: bool = False
    seconds_left: float | None = None  # None: not known yet
    seconds: float = 0.0  # that it took so far, over all its starts


class Report:
    """Writes status.json: call it with a phase, and what is known of it."""

    def __init__(self, run: Run):
        self.path = run.folder / "status.json"
        self.begun = time.time() - read_json(self.path).get("seconds", 0.0)

    @property
    def seconds(self) -> float:
        """That the teaching took so far, over all its starts."""
        return time.time() - self.begun

    def __call__(
        self, phase: str, step: int = 0, steps: int = 0, message: str = "", seconds_left: float | None = None
    ) -> None:
        entries = {"phase": phase, "step": step, "steps": steps, "message": message, "seconds_left": seconds_left}
        text = json.dumps(entries | {"seconds": self.seconds, "time": time.time()})
        write_whole(self.path, lambda partial: partial.write_text(text, "utf-8"))


def status(run_folder: str | Path) -> TeachStatus:
    """How far the teaching of a run folder is."""
    run = Run(Path(run_folder))
    entries = {"phase": "starting", "seconds": 0.0, "time": time.time()} | read_json(run.folder / "status.json")
    running = running_now() == run.folder.resolve()
    passed = (time.time() - (written := entries.pop("time"))) * running
    seconds, left = entries.pop("seconds") + passed, entries.pop("seconds_left", None)
    left = None if left is None else max(0.0, left - passed)
    if entries["phase"] == "learning" and (rows := run.metrics):
        entries["step"] = rows[-1]["step"]
        speed, batch_size = rows[-1].get("images_per_second"), run.config["training"]["batch_size"]
        left = (entries["steps"] - entries["step"]) * batch_size / speed if speed else left
    if not running and entries["phase"] not in ENDED:
        asked = run.folder / STOP_ASKED  # before it could listen, or it was not waited for
        stopped = asked.exists() and asked.stat().st_mtime >= written
        entries |= {"phase": "stopped"} if stopped else {"phase": "failed", "message": _last_line(run.folder / LOG)}
    return TeachStatus(**entries, running=running, seconds=seconds, seconds_left=left if running else None)


def _last_line(log: Path) -> str:
    """The last words of a process that ended without a report."""
    lines = re.split(r"[\r\n]+", log.read_text("utf-8", "replace")) if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"It ended without a report. The last thing it said: {last}" if last else "It was ended from outside."


def read_json(path: Path) -> dict:
    """The object in a JSON file; empty where there is none."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


# --- one at a time -------------------------------------------------------------------------------------------


def take_turn(run_folder: str | Path) -> int:
    """Take the machine's lock, and note who has it. The lock is let go when the file descriptor is closed.

    Raises:
        ValueError: another teaching runs, or the system has no locks.
    """
    if fcntl is None:
        raise ValueError("teaching needs a system with file locks: Linux or macOS")
    lock = _open_lock()
    for _ in range(5):  # who only looks holds it for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
            continue
        note_process(lock, run_folder, os.getpid())
        return lock
    os.close(lock)
    raise ValueError(f"one teaching at a time: {running_now() or 'another one'} is running; stop it, or wait for it")


def note_process(lock: int, run_folder: str | Path, pid: int) -> None:
    """Write into the lock's file who has it."""
    content = json.dumps({"run": str(Path(run_folder).resolve()), "pid": pid}).encode()
    os.pwrite(lock, content.ljust(LOCK_BYTES), 0)  # in one go: who reads meanwhile finds the old entry or the new one


def holder() -> dict:
    """Who has the lock: "run" and "pid"; empty where nobody does."""
    if fcntl is None:
        return {}
    lock = _open_lock()
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return {}
    except BlockingIOError:
        return read_json(_lock_file())
    finally:
        os.close(lock)


def running_now() -> Path | None:
    """The run folder of the teaching that runs on this machine, if one does."""
    run = holder().get("run")
    return Path(run) if run else None


def _lock_file() -> Path:
    # As the environment says it, for all processes alike: within the app Python's own answer is a folder of the app's.
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"mdt-teach-{os.getuid()}.lock"


def _open_lock() -> int:
    return os.open(_lock_file(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
