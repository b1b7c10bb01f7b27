"""From a recipe to a run folder: open the data, build the model, train, and write the pipeline folder."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, set_seed
from einops import rearrange
from PIL import Image

from mdt_core import MDTPipeline, MDTTransformer, create_model
from mdt_core.acceleration.machine import cpus_alone, devices
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.presets import model_config
from mdt_core.runs import Run
from mdt_core.training.checkpoints import resumable
from mdt_core.training.config import exponential_steps
from mdt_core.training.initialize import initialize_from
from mdt_core.training.loop import explain_write_errors, process_handlers, train
from mdt_core.weights.hub import open_autoencoder
from train.config import Recipe
from train.export import assemble, export, write_pipeline
from train.latents.dataset import Latents
from train.settings import check_same_run

FIXED = ("model", "decoder_layers", "without", "unconditional", "classes", "encoder", "optimizer")  # in a run's config

SHEET_COLUMNS = 16  # classes in the pictures of samples/, of more than that evenly picked ones


def run_recipe(recipe: Recipe, run: Run) -> None:
    """Train, and at the end assemble the pipeline folder."""
    data, vae = Latents(recipe.latents, repeats=recipe.repeats), open_autoencoder(recipe.vae)
    data.check_encoder(vae, recipe.vae)
    id2label = {} if recipe.unconditional else data.id2label
    config = asdict(recipe) | {"classes": [id2label.get(label, "no class") for label in columns(id2label)]}
    if encoder := data.made_of.get("encoder"):  # which older latents do not tell
        config["encoder"] = encoder
    check_same_run(run, config, FIXED)
    accelerator = make_accelerator(recipe, run)
    data.cache(accelerator.device)
    recipe.training.images_of_process(accelerator.num_processes)  # raises before the folder is written
    channels, side, _ = data.shape
    training = replace(recipe.training, label_dropout=1.0) if recipe.unconditional else recipe.training
    set_seed(training.seed)
    model = create_model(recipe.model, side, len(id2label), recipe.decoder_layers, channels, recipe.without)
    begun = ""
    if recipe.init_from is not None and not resumable(run):
        begun = ", " + initialize_from(model, recipe.init_from, id2label)
    if accelerator.is_main_process:
        with explain_write_errors(run):
            run.write_config(config)
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


def make_accelerator(recipe: Recipe, run: Run) -> Accelerator:
    """Processes and devices as the launcher set them up; bfloat16 where it is faster: on a GPU, on a CPU with AMX."""
    if recipe.tensorboard and not is_tensorboard_available():
        raise ValueError("tensorboard=True needs a package: pip install tensorboard")
    bfloat16 = choose_dtype("auto", torch.device(devices()[0])) == torch.bfloat16
    accelerator = Accelerator(
        cpu=cpus_alone(),
        mixed_precision="bf16" if bfloat16 else "no",
        log_with="tensorboard" if recipe.tensorboard else None,
        project_dir=run.folder,
        kwargs_handlers=process_handlers(recipe.training, model_config(recipe.model)[0] != "DiT"),
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
    """The sample sheet of a recipe."""
    pipeline = assemble(transformer, vae.to(transformer.device), id2label)
    settings = {"guidance_scale": recipe.sample_guidance_scale, "num_inference_steps": recipe.sample_steps}
    return draw_sheet(pipeline, columns(id2label), recipe.samples_per_class, **settings)


def draw_sheet(pipeline: MDTPipeline, labels: Sequence[int | None], rows: int, **settings: Any) -> Image.Image:
    """One column per class, `rows` pictures each; the seeds are the same at every step of every run."""
    labels = [*labels] * rows
    images = pipeline(labels, seeds=list(range(len(labels))), **settings).images
    return Image.fromarray(rearrange(np.stack(images), "(row column) h w rgb -> (row h) (column w) rgb", row=rows))
