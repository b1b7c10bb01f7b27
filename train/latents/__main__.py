"""A set of latents: encoded once, then all that training reads.

    python -m train.latents data/avatars --vae runs/avatars-autoencoder --out data/avatars-latents
    python -m train.latents my-photos --size 256 --mirror --vae stabilityai/sd-vae-ft-mse --out data/my-latents
    accelerate launch --num_processes 8 -m train.latents imagenet/train --size 256 --mirror --workers 12 \
        --names mdt_core/pipeline/imagenet_classes.json --vae stabilityai/sd-vae-ft-mse --out data/imagenet-latents

The source is a drawn set or a folder of image files (images.py); encode.py says what a shard holds. The
same command goes on where it stopped, with any number of processes.
"""

from pathlib import Path

from mdt_core.command.parser import number
from mdt_core.weights.hub import open_autoencoder
from train.command import Parser
from train.latents.encode import DTYPES, encode
from train.latents.images import CLASS_RULES, open_images


def encode_source(
    source: Path, vae: str, out: Path, split: str, size: int | None, classes: str, names: Path | None, **settings
) -> None:
    """Encode what the command line names."""
    encode(open_images(source, split, size, classes, names), open_autoencoder(vae), out, split, **settings)


def main() -> None:
    parser = Parser(prog="python -m train.latents", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder of images, or one that train.avatars wrote")
    parser.add_argument("--vae", required=True, help="autoencoder: a folder or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--split", default="train", help="what the shards are called; of a drawn set, what is read")
    parser.add_argument("--size", type=number(int, 1), help="side in pixels that image files are brought to")
    parser.add_argument(
        "--classes",
        choices=CLASS_RULES,
        default="folder",
        help="class of an image file: its folder, its name up to the first underscore, or none (default folder)",
    )
    parser.add_argument("--names", type=Path, help="JSON with the classes' names, in the order of folders or prefixes")
    parser.add_argument("--mirror", action="store_true", help="encode the mirror images too")
    parser.add_argument(
        "--balance",
        type=number(float, 0.0, 1.0),
        default=0.0,
        help="0.5: training reads by inverse square root of class size (default 0)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="float16 halves the shards")
    parser.add_argument("--batch-size", type=number(int, 1), default=64)
    parser.add_argument("--workers", type=number(int, 0), default=0, help="reading processes beside each encoding one")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.call(encode_source)


if __name__ == "__main__":
    main()
