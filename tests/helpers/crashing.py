"""Kill a tiny run again and again, then let it write into a full disk.

python -m tests.helpers.crashing FOLDER KILLS [SEED]

One process that never trains itself forks the runs. It must be single-threaded to be forked: OMP_NUM_THREADS=1. The
last line is JSON: what was seen.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from mdt_core.runs import Run
from mdt_core.training.config import TrainingError
from mdt_core.training.loop import train
from tests.helpers.tiny_training import CONFIG, EightImages, small_model, weights

STEPS = 40


def start(run: Run, steps: int, file_size: int | None = None) -> int:
    """Train in a forked child, with an upper limit on the size of its files; the child's process id."""
    if child := os.fork():
        return child
    status = 1
    try:
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        config = replace(CONFIG, steps=steps, log_every=1, save_every=1)
        train(small_model(), EightImages(), config, run)
        status = 0
    except TrainingError as error:
        print("TrainingError:", error, flush=True)
        status = 3
    finally:
        os._exit(status)


def kill(folder: Path, kills: int, seed: int) -> dict:
    """Kill a run at random moments of its start and of its steps; what is there must always be whole."""
    clock, whole = time.perf_counter(), Run(folder / "whole")
    child = start(whole, STEPS)
    while not whole.checkpoints:
        time.sleep(0.01)
    starting = time.perf_counter() - clock
    os.waitpid(child, 0)
    training = time.perf_counter() - clock - starting
    rng, run, reached = random.Random(seed), Run(folder / "killed"), []
    for _ in range(kills):
        child = start(run, STEPS)
        time.sleep(rng.uniform(0, starting + 3 * training / kills))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for checkpoint in run.checkpoints.values():
            weights(checkpoint), [load_file(checkpoint / f"{name}.safetensors") for name in ("raw", "optimizer")]
        reached.append(max(run.checkpoints, default=0))
    _, status = os.waitpid(start(run, STEPS), 0)
    ends = [(each.checkpoints[STEPS] / "raw.safetensors").read_bytes() for each in (whole, run)]
    return {"reached": reached, "status": status, "bit_equal": ends[0] == ends[1], "rows": len(run.metrics)}


def fill_disk(folder: Path) -> dict:
    """Let a run go on where no file may be as large as a checkpoint's."""
    run = Run(folder / "whole")
    before = {path: path.read_bytes() for path in run.checkpoints[STEPS].rglob("*") if path.is_file()}
    _, status = os.waitpid(start(run, STEPS + 5, file_size=50_000), 0)
    return {
        "full_disk_status": os.waitstatus_to_exitcode(status),
        "same": all(path.read_bytes() == content for path, content in before.items()),
        "left": sorted(path.name for path in (run.folder / "checkpoints").iterdir()),
    }


def main(folder: Path, kills: int, seed: int = 0) -> None:
    print(json.dumps(kill(folder, kills, seed) | fill_disk(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
