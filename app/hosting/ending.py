"""How the app ends: the first SIGTERM or Ctrl + C ends all of it, in order and with status 0."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

ENDINGS = (signal.SIGINT, signal.SIGTERM)


def run_to_the_end(work: Callable[[], object], close: Callable[[], object]) -> NoReturn:
    """Do the work until it is done or a signal ends it, then close, and end the process.

    An error of the work ends the process as errors do; what else is to be closed then, is for `atexit`.
    """
    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, end_once)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    with suppress(KeyboardInterrupt):
        work()
    close()
    sys.stdout.flush()
    os._exit(0)  # at Python's own end a thread that computes would be torn out of C++, which aborts


def end_once(number: int, frame: object) -> None:
    """The first signal ends all; a second one, which `make` passes on and a hand repeats, would only break that off."""
    for each in ENDINGS:
        # Not SIG_IGN: of a signal that has come already, Python would complain that nobody handles it.
        signal.signal(each, lambda number, frame: None)
    raise KeyboardInterrupt
