"""A teaching as a process of its own: it goes on when whoever started it has gone.

start(plan)                  # the same plan again goes on where it was stopped
status("runs/mine")          # TeachStatus
stop("runs/mine")            # it saves and ends
running_now()                # the run folder, or None
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

from mdt_core.acceleration.machine import usable_cores
from mdt_core.runs import Run
from train.teach.plan import TeachPlan
from train.teach.status import (
    LOG,
    STOP_ASKED,
    Report,
    TeachStatus,
    holder,
    note_process,
    running_now,
    status,
    take_turn,
)

__all__ = ["TeachStatus", "running_now", "start", "status", "stop"]
ROOT = Path(__file__).parents[2]


def start(plan: TeachPlan) -> None:
    """Teach, or go on, in a process of its own, with half of the cores and behind all others in line.

    Raises:
        ValueError: another teaching runs, or the run folder holds something else.
    """
    folder = Path(plan.out).resolve()
    lock = take_turn(folder)
    # Threads that wait without spinning: on a busy machine a step takes a sixth of the CPU time (train/LOG.md).
    machine = {"OMP_NUM_THREADS": str(teaching_threads()), "OMP_WAIT_POLICY": "PASSIVE"}
    machine["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        plan.save()
        Report(Run(folder))("starting")
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "train.teach", "--resume", str(folder), "--lock", str(lock)],
                env=os.environ | machine,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to the app's group does not reach it
                pass_fds=[lock],  # the lock is the child's from its first moment on
            )
        note_process(lock, folder, process.pid)
    finally:
        os.close(lock)
    Thread(target=process.wait, daemon=True).start()  # or it would stay a zombie


def teaching_threads() -> int:
    """As many as leave half of the cores to whoever draws meanwhile."""
    return max(1, usable_cores() // 2)


def stop(run_folder: str | Path) -> None:
    """Ask the teaching of a run folder to save and end, which takes a step or two; nothing where it does not run."""
    who = holder()
    if who.get("run") == str(Path(run_folder).resolve()):
        (Path(run_folder) / STOP_ASKED).touch()
        os.kill(who["pid"], signal.SIGTERM)
