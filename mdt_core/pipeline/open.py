"""Any source -> a pipeline: what `MDTPipeline.from_pretrained` opens, and a checkpoint of a training run.

A checkpoint holds the transformer alone (see `runs.py`); its run's pipeline lends autoencoder, class names and preview.
"""

from pathlib import Path

from mdt_core.pipeline.pipeline import MDTPipeline
from mdt_core.runs import pipeline_of
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import expand, one_line


def open_pipeline(source: str | Path) -> MDTPipeline:
    """Open a pipeline folder, a published file, a hub id, or `RUN/checkpoints/step_XXXXXXXX`.

    Raises:
        ValueError: nothing is there, it is damaged or half written, or it is not a model of this family.
    """
    folder = expand(source)
    if not is_checkpoint(folder):
        return MDTPipeline.from_pretrained(source)
    weights, rest = pipeline_of(folder)
    pipe = MDTPipeline.from_pretrained(rest, transformer=load_transformer(weights))
    if pipe.vae.config.latent_channels != pipe.transformer.config.in_channels:
        raise ValueError(f"{folder} and {rest} do not belong together: their latent channels differ")
    return pipe


def is_checkpoint(source: str | Path) -> bool:
    """Whether this is a checkpoint folder, not a pipeline folder or anything else."""
    folder = expand(source)
    return (folder / "transformer").is_dir() and not (folder / "model_index.json").exists()


def load_transformer(folder: Path) -> MDTTransformer:
    """The weights in a checkpoint's `transformer` folder, every one of them. ValueError where they cannot be had."""
    try:
        return MDTTransformer.from_pretrained(folder)
    except Exception as error:  # cut short, half written, of another shape: the readers have no common base class
        raise ValueError(f"the checkpoint {folder} cannot be read: {one_line(error)}") from error
