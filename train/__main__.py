"""Train a recipe: accelerate launch -m train RECIPE --output-dir runs/NAME. The same command resumes."""

from mdt_core.runs import Run
from train.command import Parser, train_by_recipe
from train.config import RECIPES, Recipe
from train.costs import table


def train(recipe: Recipe, run: Run) -> None:
    from train.run_recipe import run_recipe  # only now: --help and --list need nothing of it

    run_recipe(recipe, run)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument(
        "--init-from",
        dest="settings",
        action="append",
        type=lambda source: f"init_from={source!r}",
        metavar="SOURCE",
        help="begin with the weights of a checkpoint, a pipeline or a published file",
    )
    train_by_recipe(parser, RECIPES, table, train, arguments, shared=True)


if __name__ == "__main__":
    main()
