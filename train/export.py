"""A run's averaged weights and an autoencoder -> a diffusers pipeline folder, ready for the app.

python -m train.export runs/avatars --vae runs/avatars-autoencoder --out assets/models/avatars
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.runs import Run, write_whole
from train.latents import Latents, open_autoencoder

SHARD_SIZE = "9MB"  # a Space refuses files over 10 MB


def assemble(transformer: MDTTransformer, vae, id2label: dict[int, str], data: Latents | None = None) -> MDTPipeline:
    """Model and autoencoder as a pipeline that guides all channels, its preview fitted to real latents."""
    pipeline = MDTPipeline(transformer, vae, id2label=id2label, guidance_channels=None)
    if data is not None:
        every = max(1, len(data) // 256)
        pipeline.fit_preview(data.batch(list(range(0, len(data), every)))[0])
    return pipeline


def drop_derived(config: Path) -> None:
    """Take out what `AutoencoderTiny` writes into its configuration and then warns of when it reads it."""
    settings = json.loads(config.read_text())
    if settings.get("_class_name") == "AutoencoderTiny":
        settings.pop("block_out_channels", None)
        config.write_text(json.dumps(settings, indent=2) + "\n")


def write_pipeline(pipeline: MDTPipeline, out: Path) -> None:
    """Write a pipeline folder, in one piece. A model card that is there stays: it is written by hand."""
    card = out / "README.md"

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        drop_derived(folder / "vae" / "config.json")
        if card.exists():
            shutil.copy(card, folder)

    write_whole(out, fill)


def export(run: Run, vae: str, out: Path, step: int | None = None) -> None:
    """Write the pipeline folder of a run's checkpoint, by default its last.

    Raises:
        ValueError: the run has no such checkpoint.
    """
    steps = list(run.checkpoints)
    if not steps or (step is not None and step not in steps):
        raise ValueError(f"{run.folder} has checkpoints at steps {steps}, not at {step or 'any'}")
    step = step or max(steps)
    data = Latents(run.config["latents"])
    transformer = MDTTransformer.from_pretrained(run.checkpoints[step] / "transformer")
    write_pipeline(assemble(transformer, open_autoencoder(vae), data.id2label, data), out)
    print(f"{out}: step {step} of {run.folder}, autoencoder {vae}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--vae", help="autoencoder folder or hub id; by default the run's own")
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--step", type=int, help="checkpoint; by default the last")
    args = parser.parse_args()
    run = Run(args.run)
    try:
        export(run, args.vae or run.config.get("vae", ""), args.out, args.step)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
