"""Processes of their own that start at once: forked from one that has imported what trains, which takes seconds.

For tests of processes that die or work together. What a fresh interpreter does, or a launcher, is tested with one.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.tiny_training", "train.autoencoder.__main__"])


@dataclass
class Forked:
    """A process that was started."""

    process: BaseProcess
    said: Path  # a folder with what it writes to stdout and stderr

    def wait(self, seconds: float = 300) -> CompletedProcess:
        """Its exit status and what it said, when it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s"
        texts = ((self.said / name).read_text() for name in ("stdout", "stderr"))
        return CompletedProcess(self.process.name, self.process.exitcode, *texts)


def start(function: Callable[..., object], *arguments: object, **environment: str) -> Forked:
    """Call a function of a module in a process of its own, with these variables on top of ours."""
    said, variables = Path(tempfile.mkdtemp()), os.environ | environment
    process = CONTEXT.Process(target=_call, args=(variables, said, function, arguments), daemon=True)
    process.start()
    return Forked(process, said)


def _call(variables: dict[str, str], said: Path, function: Callable[..., object], arguments: tuple) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    function(*arguments)
