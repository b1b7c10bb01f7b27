"""A command as `python -m PACKAGE ARGUMENTS` runs it, but in the process of the test."""

import runpy
import sys
from collections.abc import Sequence
from unittest.mock import patch


def run_command(package: str, arguments: Sequence[str]) -> None:
    with patch.object(sys, "argv", [package, *arguments]):
        runpy.run_module(package, run_name="__main__", alter_sys=True)
