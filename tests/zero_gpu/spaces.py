"""A stand-in for the `spaces` package as it behaves on ZeroGPU: a decorated generator runs in a forked worker.

Arguments and everything yielded are pickled across; closing the generator stops the worker after its step. Unlike the
real package it refuses to start where that would have been too late.
"""

import inspect
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator

assert "torch" not in sys.modules, "spaces has to be imported before torch"

asked: list[float] = []  # the seconds that were asked for
_fork = multiprocessing.get_context("fork")


def GPU(duration: Callable[..., float]) -> Callable:
    def decorate(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
        assert inspect.isgeneratorfunction(task)

        def handler(*arguments: object) -> Iterator:
            asked.append(duration(*arguments))
            parent, child = _fork.Pipe()
            stop = _fork.Event()
            worker = _fork.Process(target=work, args=(task, pickle.dumps(arguments), child, stop), daemon=True)
            worker.start()
            child.close()
            message: bytes | None = b""
            try:
                while (message := parent.recv()) is not None:
                    yield pickle.loads(message)
            finally:
                stop.set()
                while message is not None:
                    message = parent.recv()
                worker.join(5)
                assert worker.exitcode == 0

        return handler

    return decorate


def work(task: Callable[..., Iterator], arguments: bytes, connection, stop) -> None:
    for result in task(*pickle.loads(arguments)):
        if stop.is_set():
            break
        connection.send(pickle.dumps(result))
    connection.send(None)
