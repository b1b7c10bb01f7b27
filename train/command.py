"""What the commands of this folder share: their arguments, how they use the machine, and how a recipe is named."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mdt_core.command.parser import Parser as OneLineParser
from mdt_core.runs import Run
from mdt_core.training.config import TrainingError
from train.settings import find_recipe


def use_machine() -> None:
    """As many threads as this process may have cores; on an Nvidia GPU, products in float32 by TF32.

    TF32 rounds factors to 10 bits and is several times as fast. Where there is no such GPU, nothing changes.
    """
    import torch

    from mdt_core.acceleration.machine import use_own_cores

    use_own_cores()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


class Parser(OneLineParser):
    """A command line of this folder's."""

    def run(self, command: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None = None) -> None:
        """Parse and call, on all of the machine. A training that cannot go on ends with one line and status 1."""

        def work(parsed: argparse.Namespace) -> None:
            use_machine()
            try:
                command(parsed)
            except TrainingError as error:
                self.exit(1, f"{self.prog}: {error}\n")

        super().run(work, arguments)

    def call(self, function: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
        """Parse, and call a function that takes each of the arguments by its name."""
        self.run(lambda parsed: function(**vars(parsed)), arguments)


class ListRecipes(argparse.Action):
    """--list: print a table and end, whatever else is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, table: Callable[[], str], help: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self.table = table

    def __call__(self, parser: argparse.ArgumentParser, *parsed: Any) -> None:
        print(self.table())
        parser.exit()


def train_by_recipe(
    parser: Parser,
    recipes: Mapping[str, Any],
    table: Callable[[], str],
    train: Callable[[Any, Run], None],
    arguments: Sequence[str] | None = None,
    shared: bool = False,
) -> None:
    """What every training takes: RECIPE --output-dir FOLDER --set KEY=VALUE ..., or --list.

    Args:
        parser: with what this training takes besides, as settings ("key=value" texts appended to `settings`).
        recipes: name -> configuration.
        table: what --list prints.
        train: of a configuration, into a run folder; the same call resumes.
        arguments: by default those of the process.
        shared: whether several processes of a launcher share the work; else they are refused.
    """
    parser.add_argument("recipe", help=", ".join(recipes))
    parser.add_argument("--output-dir", type=Path, required=True, help="the run folder; the same command resumes")
    parser.add_argument(
        "--set", dest="settings", action="extend", nargs="+", metavar="KEY=VALUE", help="change settings of the recipe"
    )
    parser.set_defaults(settings=[])
    parser.add_argument("--list", action=ListRecipes, table=table, help="print the recipes and what to expect of them")

    def command(recipe: str, output_dir: Path, settings: list[str]) -> None:
        run, is_main = Run(output_dir), os.environ.get("RANK", "0") == "0"  # of many processes the launcher's first
        if not shared and os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError("this training runs in one process alone: start it without a launcher")
        with run.locked() if is_main else nullcontext():
            train(find_recipe(recipes, recipe, settings), run)

    parser.call(command, arguments)


def aligned(rows: list[list[str]], justify: Callable[[str, int], str] = str.ljust) -> list[str]:
    """Rows of cells as lines whose columns begin below each other, or by `str.rjust` end so."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(justify, cells, widths)).rstrip() for cells in rows]
