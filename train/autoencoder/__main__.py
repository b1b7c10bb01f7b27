"""Train the small autoencoder by a recipe.

    python -m train.autoencoder avatars --output-dir runs/avatars-autoencoder
    python -m train.autoencoder avatars-128 --output-dir runs/avatars-128-autoencoder --set minutes=5

`train.autoencoder.decoder` later tunes the decoder on what a diffusion model hands it.
"""

from functools import partial

from mdt_core.runs import Run
from train.autoencoder.config import AUTOENCODERS, AutoencoderConfig, table
from train.command import Parser, train_by_recipe


def train(config: AutoencoderConfig, run: Run) -> None:
    from train.autoencoder.training import train_autoencoder  # only now: --help and --list need nothing of it

    train_autoencoder(config, run)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train.autoencoder", description=__doc__.splitlines()[0])
    train_by_recipe(parser, AUTOENCODERS, partial(table, AUTOENCODERS), train, arguments)


if __name__ == "__main__":
    main()
