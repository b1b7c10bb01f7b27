"""Train a recipe: accelerate launch -m train RECIPE --output-dir runs/NAME. The same command resumes."""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image

from mdt_core import MDTTransformer, create_model
from mdt_core.runs import Run
from mdt_core.training import train
from mdt_core.training_config import TrainingError, exponential_steps
from train.config import RECIPES, Recipe, find_recipe
from train.export import assemble, export, write_pipeline
from train.latents import Latents, open_autoencoder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("recipe", help=", ".join(RECIPES))
    parser.add_argument("--output-dir", type=Path, required=True, help="the run folder")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of the recipe")
    args = parser.parse_args(arguments)
    try:
        recipe = find_recipe(args.recipe, args.set)
        run_recipe(recipe, Run(args.output_dir))
    except (ValueError, FileNotFoundError, TrainingError) as error:
        sys.exit(f"{parser.prog}: {error}")


def run_recipe(recipe: Recipe, run: Run) -> None:
    """Train, and at the end assemble the pipeline folder."""
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    data = Latents(recipe.latents)
    channels, side, _ = data.shape
    set_seed(recipe.training.seed)
    model = create_model(recipe.model, side, len(data.id2label), in_channels=channels)
    vae = open_autoencoder(recipe.vae)
    if accelerator.is_main_process:
        run.write_config(recipe.describe() | {"classes": list(data.id2label.values())})
        if not (run.folder / "pipeline").exists():  # what a checkpoint lacks: autoencoder, class names, preview
            write_pipeline(assemble(model, vae, data.id2label, data), run.folder / "pipeline")
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{recipe.model}, {millions:.1f}M parameters, {len(data)} images, {len(data.id2label)} classes")
    train(
        model,
        data,
        recipe.training,
        run,
        sample_steps=exponential_steps(recipe.training.steps, first=50),
        draw_samples=partial(sample_sheet, vae=vae, id2label=data.id2label, recipe=recipe),
        accelerator=accelerator,
    )
    if accelerator.is_main_process and recipe.training.steps in run.checkpoints:
        export(run, recipe.vae, run.folder / "pipeline")


def sample_sheet(transformer: MDTTransformer, step: int, *, vae, id2label: dict[int, str], recipe: Recipe):
    """One column per class, `samples_per_class` rows; the seeds are the same at every step of every run."""
    count = len(id2label)
    labels = [index for _ in range(recipe.samples_per_class) for index in range(count)]
    device = transformer.device
    pipeline = assemble(transformer, vae.to(device), id2label)
    images = pipeline(
        labels,
        seeds=list(range(len(labels))),
        guidance_scale=recipe.sample_guidance_scale,
        num_inference_steps=recipe.sample_steps,
    ).images
    rows = [
        np.concatenate([np.asarray(image) for image in images[i : i + count]], 1) for i in range(0, len(images), count)
    ]
    return Image.fromarray(np.concatenate(rows))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
