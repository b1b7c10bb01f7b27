"""How the programs of this folder use the machine: all of the cores that are theirs, and what a GPU is fast at."""

import argparse
from collections.abc import Callable, Sequence

import mdt_core.command_line


def use_machine() -> None:
    """As many threads as this process may have cores; on an Nvidia GPU, products in float32 by TF32.

    TF32 rounds factors to 10 bits and is several times as fast. Where there is no such GPU, nothing changes.
    """
    import torch

    from mdt_core.acceleration.machine import use_own_cores

    use_own_cores()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


class Parser(mdt_core.command_line.Parser):
    """A command line of this folder's."""

    def run(self, command: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None = None) -> None:
        """Parse and call, on all of the machine."""

        def work(parsed: argparse.Namespace) -> None:
            use_machine()
            command(parsed)

        super().run(work, arguments)
