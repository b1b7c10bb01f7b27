"""Processes of their own that start at once: forked from one that has imported what takes seconds.

`start` calls a function of ours, for tests of processes that die or work together; `python` runs a program as the
interpreter would, for tests of what it says or does where it stands alone. A test that calls either is marked
`forked`: all of them run on one worker, from one pair of servers.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.tiny_training", "train.autoencoder.__main__"])

# For programs: nothing of ours, and nothing that reads the environment when it is imported.
LIBRARIES = forkserver.ForkServer()
LIBRARIES.set_forkserver_preload(["torch", "torch._dynamo", "scipy.stats", "pandas", "fastapi", "matplotlib.pyplot"])


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


def start_together(function: Callable[..., object], *arguments: object) -> list[Forked]:
    """Two processes that find each other, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world["OMP_NUM_THREADS"] = "1"
    return [start(function, *arguments, **world, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def python(*arguments: object, cwd: Path = ROOT, **environment: str) -> CompletedProcess:
    """`python -c CODE`, `python -m MODULE` or `python FILE` with arguments, in a folder; torch is imported already."""
    with patch.object(forkserver, "connect_to_new_process", LIBRARIES.connect_to_new_process):
        return start(_run, [str(argument) for argument in arguments], cwd, **environment).wait()


def _call(variables: dict[str, str], said: Path, function: Callable[..., object], arguments: tuple) -> None:
    os.environ.update(variables)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    import torch

    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    function(*arguments)


def _run(arguments: list[str], cwd: Path) -> None:
    """What the interpreter does with its command line."""
    os.chdir(cwd)
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, added), *(path for path in sys.path if path.startswith(tuple(installed)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "mdt_core", "train", "app")]:
        del sys.modules[name]  # this module, for one
    kind, *rest = arguments
    if kind in ("-c", "-m"):
        sys.path.insert(0, "" if kind == "-c" else str(cwd))
        sys.argv = [kind, *rest[1:]]
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")
