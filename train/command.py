"""How the programs of this folder end: what was wrong with a call is one line, status 2, and no traceback."""

import argparse
from collections.abc import Callable, Sequence

from mdt_core.machine import use_own_cores


class Parser(argparse.ArgumentParser):
    """A command line, and what it runs."""

    def error(self, message: str):
        """End with one line, and without the usage that would hide it."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")

    def run(self, command: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> None:
        """Parse and call; what is wrong with the arguments, or with what they name, is told as a wrong call."""
        args = self.parse_args(argv)
        use_own_cores()
        try:
            command(args)
        except (ValueError, OSError, ImportError) as error:
            self.error(str(error))
