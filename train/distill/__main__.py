"""Distil a model's guided steps into few plain ones, by a recipe.

    python -m train.distill avatars --output-dir runs/avatars-student
    python -m train.distill avatars --output-dir runs/avatars-student --set minutes=30 rank=16

The teacher's trajectories are drawn first, and kept in the run folder. At the end its `pipeline` is the model with a
small file beside it, `pytorch_lora_weights.safetensors`, and a preset "fast" that draws with both.
"""

from functools import partial

from mdt_core.runs import Run
from train.command import Parser, train_by_recipe
from train.distill.config import RECIPES, DistillConfig, table


def train(config: DistillConfig, run: Run) -> None:
    from train.distill.training import distill  # only now: --help and --list need nothing of it

    distill(config, run)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train.distill", description=__doc__.splitlines()[0])
    train_by_recipe(parser, RECIPES, partial(table, RECIPES), train, arguments)


if __name__ == "__main__":
    main()
