"""What a run leaves to the app: a pipeline folder of its averaged weights and an autoencoder, or the run to look at.

python -m train.export runs/avatars --vae runs/avatars-decoder --out assets/models/avatars
python -m train.export runs/avatars --as-run --until 3200 --weights 400 1600 3200 --out assets/progress/avatars-mdtv2
"""

import argparse
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.acceleration.machine import choose_device
from mdt_core.command.parser import number
from mdt_core.runs import Run, read_json, write_whole
from mdt_core.saved_config import tidy_config
from mdt_core.training.checkpoints import resumable
from mdt_core.weights.hub import open_autoencoder
from train.command import Parser
from train.latents.dataset import Latents

SHARD_SIZE = "9MB"  # a Space refuses files over 10 MB
PREVIEWED = 32  # images that the preview is fitted to: enough, for each has hundreds of cells


def assemble(transformer: MDTTransformer, vae, id2label: dict[int, str], data: Latents | None = None) -> MDTPipeline:
    """Model and autoencoder as a pipeline that guides all channels, its preview fitted to real latents.

    The fit decodes images on the autoencoder's device: on a CPU, Stable Diffusion's takes minutes.
    """
    pipeline = MDTPipeline(transformer, vae, id2label=id2label, guidance_channels=None)
    if data is not None:
        # At random: in an ordered set, every tenth image may be of the same class.
        indices = random.Random(0).sample(range(len(data)), min(PREVIEWED, len(data)))
        pipeline.fit_preview(data.batch(indices)[0])
    return pipeline


def save_autoencoder(vae, out: Path) -> None:
    """Write an autoencoder's folder."""
    vae.save_pretrained(out)
    tidy_config(out / vae.config_name)


def write_pipeline(pipeline: MDTPipeline, out: Path) -> None:
    """Write a pipeline folder, whole or not at all. A model card in the folder stays: it is written by hand."""
    card = out / "README.md"

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        if card.exists():
            shutil.copy(card, folder)

    write_whole(out, fill)


def check_replaceable(out: Path, run: Run, older: bool) -> None:
    """Raise ValueError where the folder `out`, to be written in one piece, is neither new nor an `older` export."""
    if run.folder.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"--out {out} would replace the run itself: choose another folder")
    if resumable(Run(out)) or (out.exists() and any(out.iterdir()) and not older):
        raise ValueError(f"{out} holds something else, which would be deleted: choose a new folder")


def export(run: Run, vae: str, out: Path, step: int | None = None, half: bool = False) -> None:
    """Write the pipeline folder of a run's checkpoint, by default its last, with the settings tuned for the run.

    Args:
        half: store the weights in float16, in half the space; they are opened in float32.

    Raises:
        ValueError: the run has no such checkpoint, or `out` holds something else.
    """
    check_replaceable(out, run, older=(out / "model_index.json").exists())
    steps = list(run.checkpoints)
    if not steps or (step is not None and step not in steps):
        raise ValueError(f"{run.folder} has checkpoints at steps {steps}, not at {step or 'any'}")
    if "latents" not in run.config:
        raise ValueError(f"{run.folder} holds no run of a diffusion model")
    step = step or max(steps)
    data = Latents(run.config["latents"])
    transformer = MDTTransformer.from_pretrained(run.checkpoints[step] / "transformer")
    pipeline = assemble(transformer, open_autoencoder(vae).to(choose_device()), data.id2label, data)
    tuned = run.folder / "pipeline" / "model_index.json"
    if tuned.is_file():
        pipeline.sampling_defaults = read_json(tuned).get("sampling_defaults")
    if half:
        pipeline.transformer.half(), pipeline.vae.half()
    write_pipeline(pipeline, out)
    print(f"{out}: step {step} of {run.folder}, autoencoder {vae}")


def shortened(config: dict, until: int) -> dict:
    """The configuration of a run cut at a step: as of one that ended there, and how many steps it really had."""
    training = config["training"]
    return config | {"training": training | {"steps": min(until, training["steps"])}, "excerpt_of": training["steps"]}


def export_run(run: Run, out: Path, weights: Sequence[int] = (), until: int | None = None) -> None:
    """Write a smaller run folder to look through: samples, figures (at most 200 logged rows), and some weights.

    Args:
        until: the last step to keep, so that two runs have the same length.
        weights: steps whose averaged weights go with it, in float16, so that they can be opened.

    Raises:
        ValueError: there is no such run or checkpoint, or `out` holds something else.
    """
    check_replaceable(out, run, older="training" in Run(out).config)
    if "training" not in run.config:
        raise ValueError(f"{run.folder} holds no run: name the folder that training wrote")
    last = math.inf if until is None else until
    if missing := set(weights) - {step for step in run.checkpoints if step <= last}:
        raise ValueError(f"{run.folder} has checkpoints at steps {list(run.checkpoints)}, not at {sorted(missing)}")

    def fill(folder: Path) -> None:
        small, rows = Run(folder), [row for row in run.metrics if row["step"] <= last]
        small.write_config(run.config if until is None else shortened(run.config, until))
        for row in rows[:: -(len(rows) // 200 + 1)][::-1]:  # the last among them
            small.log(row)
        for row in run.evaluations:
            if row["step"] <= last:
                small.write_evaluation(row)
        (folder / "samples").mkdir()
        for step, picture in run.samples.items():
            if step <= last:
                shutil.copy(picture, folder / "samples")
        for step in weights:
            path = run.checkpoints[step] / "transformer"
            # Half the size; opened in float32, and an output moves by less than 1e-3.
            half = MDTTransformer.from_pretrained(path, torch_dtype=torch.float16)
            half.save_pretrained(folder / path.relative_to(run.folder), max_shard_size=SHARD_SIZE)
        if weights:  # what a checkpoint is opened with
            shutil.copytree(run.folder / "pipeline" / "vae", folder / "pipeline" / "vae")
            tidy_config(folder / "pipeline" / "vae" / "config.json")
            shutil.copy(run.folder / "pipeline" / "model_index.json", folder / "pipeline")

    write_whole(out, fill)
    small = Run(out)
    print(f"{out}: {len(small.samples)} pictures, {len(small.evaluations)} evaluations, weights of {list(weights)}")


def write_export(args: argparse.Namespace) -> None:
    """What the command line asks for: with --as-run a run to look through, else a pipeline."""
    run = Run(args.folder)
    if args.as_run:
        export_run(run, args.out, args.weights, args.until)
    else:
        export(run, args.vae or run.config.get("vae", ""), args.out, args.step, args.half)


def main() -> None:
    parser = Parser(prog="python -m train.export", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="run", help="the run folder")
    parser.add_argument("--vae", help="autoencoder folder or hub id; by default the run's own")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--step", type=number(int, 0), help="checkpoint; by default the last")
    parser.add_argument("--half", action="store_true", help="store the weights in float16, in half the space")
    parser.add_argument("--as-run", action="store_true", help="write a small run folder for the Training progress tab")
    parser.add_argument(
        "--weights", type=number(int, 0), nargs="*", default=[], help="with --as-run: steps whose weights to keep"
    )
    parser.add_argument("--until", type=number(int, 0), metavar="STEP", help="with --as-run: leave out what came later")
    parser.run(write_export)


if __name__ == "__main__":
    main()
