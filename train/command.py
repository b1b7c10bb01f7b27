"""How the programs of this folder begin and end.

They use what the machine has; what was wrong with a call is one line, status 2, and no traceback.
"""

import argparse
from collections.abc import Callable, Sequence

import torch

from mdt_core.acceleration.machine import use_own_cores


def use_machine() -> None:
    """As many threads as this process may have cores; on an Nvidia GPU, products in float32 by TF32.

    TF32 rounds factors to 10 bits and is several times as fast. Where there is no such GPU, nothing changes.
    """
    use_own_cores()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


class Parser(argparse.ArgumentParser):
    """A command line, and what it runs."""

    def error(self, message: str):
        """End with one line, and without the usage that would hide it."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")

    def run(self, command: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> None:
        """Parse and call; what is wrong with the arguments, or with what they name, is told as a wrong call."""
        args = self.parse_args(argv)
        use_machine()
        try:
            command(args)
        except (ValueError, OSError, ImportError) as error:
            self.error(str(error))
