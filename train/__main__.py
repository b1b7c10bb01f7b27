"""Train a recipe: accelerate launch -m train RECIPE --output-dir runs/NAME. The same command resumes."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    is_tensorboard_available,
    set_seed,
)
from einops import rearrange
from PIL import Image

from mdt_core import MDTTransformer, create_model
from mdt_core.acceleration.machine import cpus_alone, devices
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.presets import model_config
from mdt_core.runs import Run
from mdt_core.training.checkpoints import initialize_from, resumable
from mdt_core.training.config import TrainingError, exponential_steps
from mdt_core.training.loop import PROCESS_TIMEOUT, explain_write_errors, train
from mdt_core.weights.hub import open_autoencoder
from train.command import Parser, use_machine
from train.config import RECIPES, Recipe, find_recipe
from train.costs import table
from train.export import assemble, export, write_pipeline
from train.latents.dataset import Latents

SHEET_COLUMNS = 16  # classes in the pictures of samples/, of more than that evenly picked ones


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train", description=__doc__)
    parser.add_argument("recipe", nargs="?", help=", ".join(RECIPES))
    parser.add_argument("--output-dir", type=Path, help="the run folder")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of the recipe")
    parser.add_argument("--init-from", help="begin with the weights of a checkpoint, a pipeline or a published file")
    parser.add_argument("--list", action="store_true", help="print the recipes, what they cost and what to expect")
    args = parser.parse_args(arguments)
    if args.list:
        print(table())
        return
    if not args.recipe or not args.output_dir:
        parser.error("a recipe and --output-dir are needed; --list prints the recipes")
    try:
        recipe = find_recipe(args.recipe, args.set)
        if args.init_from:
            recipe = replace(recipe, init_from=args.init_from)
        run_recipe(recipe, Run(args.output_dir))
    except (ValueError, OSError) as error:  # of the call, or of what it names
        parser.error(str(error))
    except TrainingError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def run_recipe(recipe: Recipe, run: Run) -> None:
    """Train, and at the end assemble the pipeline folder."""
    data, vae = Latents(recipe.latents, repeats=recipe.repeats), open_autoencoder(recipe.vae)
    data.check_encoder(vae, recipe.vae)
    id2label = {} if recipe.unconditional else data.id2label
    described = recipe.describe() | {"classes": [id2label.get(label, "no class") for label in columns(id2label)]}
    check_same_run(run, described)
    accelerator = make_accelerator(recipe, run)
    data.hold(accelerator.device)
    recipe.training.images_of_process(accelerator.num_processes)  # raises before the folder is written
    channels, side, _ = data.shape
    training = replace(recipe.training, label_dropout=1.0) if recipe.unconditional else recipe.training
    set_seed(training.seed)
    model = create_model(recipe.model, side, len(id2label), recipe.decoder_layers, channels, recipe.without)
    begun = ""
    if recipe.init_from is not None and not resumable(run):
        begun = ", " + initialize_from(model, recipe.init_from)
    if accelerator.is_main_process:
        with explain_write_errors(run):
            run.write_config(described)
            if not (run.folder / "pipeline").exists():  # what a checkpoint lacks: autoencoder, class names, preview
                vae.to(accelerator.device)  # the other processes wait
                write_pipeline(assemble(model, vae, id2label, data), run.folder / "pipeline")
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{recipe.model}, {millions:.1f}M parameters, {len(data)} images, {len(id2label)} classes{begun}")
    train(
        model,
        data,
        training,
        run,
        sample_steps=exponential_steps(training.steps, first=50),
        draw_samples=partial(sample_sheet, vae=vae, id2label=id2label, recipe=recipe),
        accelerator=accelerator,
    )
    if accelerator.is_main_process and training.steps in run.checkpoints:
        with explain_write_errors(run):
            export(run, recipe.vae, run.folder / "pipeline")
    accelerator.end_training()


def check_same_run(run: Run, described: dict) -> None:
    """Raise ValueError where the folder holds a run that cannot go on so, before anything of it is overwritten."""
    there, here = run.config if run.checkpoints else {}, json.loads(json.dumps(described))
    there, here = (each | {"optimizer": each.get("training", {}).get("optimizer")} for each in (there, here))
    keys = [key for key in ("model", "decoder_layers", "without", "unconditional", "classes") if key in there]
    keys += ["optimizer"] * bool(there["optimizer"])
    if differing := [f"{key} {there[key]} there and {here[key]} here" for key in keys if there[key] != here[key]]:
        raise ValueError(f"{run.folder} holds another run, {', '.join(differing)}: choose another --output-dir")


def make_accelerator(recipe: Recipe, run: Run) -> Accelerator:
    """Processes and devices as the launcher set them up; bfloat16 where it is faster: on a GPU, on a CPU with AMX."""
    if recipe.tensorboard and not is_tensorboard_available():
        raise ValueError("tensorboard=True needs a package: pip install tensorboard")
    bfloat16 = choose_dtype("auto", torch.device(devices()[0])) == torch.bfloat16
    # Without a masked pass, an MDT has weights that no pass uses, and the processes must agree on that.
    unused = recipe.training.mask_ratio is None and model_config(recipe.model)[0] != "DiT"
    accelerator = Accelerator(
        cpu=cpus_alone(),
        mixed_precision="bf16" if bfloat16 else "no",
        log_with="tensorboard" if recipe.tensorboard else None,
        project_dir=run.folder,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT),
        ],
    )
    accelerator.init_trackers("tensorboard")
    return accelerator


def columns(id2label: dict[int, str]) -> list[int | None]:
    """The classes of the sample sheet, a column each; no class where there are none."""
    count = min(SHEET_COLUMNS, len(id2label))
    return [index * len(id2label) // count for index in range(count)] or [None]


def sample_sheet(
    transformer: MDTTransformer, step: int, *, vae, id2label: dict[int, str], recipe: Recipe
) -> Image.Image:
    """One column per class, `samples_per_class` rows; the seeds are the same at every step of every run."""
    labels = columns(id2label) * recipe.samples_per_class
    pipeline = assemble(transformer, vae.to(transformer.device), id2label)
    images = pipeline(
        labels,
        seeds=list(range(len(labels))),
        guidance_scale=recipe.sample_guidance_scale,
        num_inference_steps=recipe.sample_steps,
    ).images
    rows = recipe.samples_per_class
    return Image.fromarray(rearrange(np.stack(images), "(row column) h w rgb -> (row h) (column w) rgb", row=rows))


if __name__ == "__main__":
    use_machine()
    main()
