"""How every command of this project reads its arguments: a wrong call ends with one line and status 2, no traceback."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; `run` parses, and calls the command."""

    def error(self, message: str) -> None:
        """Exit with status 2 and one line, without the usage."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse does, which takes the `--` of `--size=--` for no value at all and says nothing."""
        args = sys.argv[1:] if args is None else list(args)
        if empty := [arg for arg in args if arg.startswith("-") and arg.endswith("=--")]:
            self.error(f"argument {empty[0][:-3]}: -- is no value")
        return super().parse_known_args(args, namespace)

    def run(self, command: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None = None) -> None:
        """Parse and call; an error in what the arguments name ends as a wrong argument does."""
        parsed = self.parse_args(arguments)
        try:
            command(parsed)
        except Exception as error:
            if not is_reported(error):
                raise
            self.error(str(error))


def is_reported(error: Exception) -> bool:
    """Whether it ends a command with one line: a wrong value, a file, what is not installed, no room on disk or GPU."""
    if isinstance(error, ValueError | OSError | ImportError):
        return True
    from safetensors import SafetensorError  # of a full disk
    from torch import OutOfMemoryError

    return isinstance(error, SafetensorError | OutOfMemoryError)


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], int | float]:
    """A type for `add_argument`: an int or a float from `low` to `high`; NaN and infinity are none."""

    def convert(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high or math.isinf(value):
            bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise argparse.ArgumentTypeError(f"must be {bounds}, not {text}")
        return value

    convert.__name__ = "number"  # in argparse's own message
    return convert


def chosen_settings(args: argparse.Namespace) -> dict[str, Any]:
    """--scale, --power, --guidance, --interval, --steps, --sampler and --first-timestep in the pipeline's words.

    Those left out are left to the model.
    """
    low, high = args.interval or (None, None)
    chosen = {
        "guidance_scale": args.scale,
        "guidance_power": args.power,
        "guidance_kind": args.guidance,
        "guidance_low": low,
        "guidance_high": high,
        "num_inference_steps": args.steps,
        "sampler": args.sampler,
        "first_timestep": args.first_timestep,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """--device, --dtype and --compile, and by how much the latter two change a picture."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (a GPU where there is one)")
    dtypes = "auto, float32, bfloat16, float16 (auto: bfloat16 on a GPU, and on a CPU with AMX if wide, else float32)"
    parser.add_argument("--dtype", default="auto", metavar="NAME", help=f"{dtypes}; 16 bits move an output by 1%%")
    parser.add_argument(
        "--compile", action="store_true", help="the first picture waits for it; moves an output by rounding alone"
    )
