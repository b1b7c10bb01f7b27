"""What a checkpoint of a run holds; how a run resumes from its last one, or begins with another model's weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdt_core.runs import Run
from mdt_core.training.config import TrainingError
from mdt_core.training.ema import EMA
from mdt_core.training.optimizers import load_optimizer_tensors, optimizer_tensors
from mdt_core.training.sharding import all_gather, all_gather_model, all_gather_state, load_weights, shard_state
from mdt_core.transformer import MDT, MDTTransformer
from mdt_core.weights.growth import grow
from mdt_core.weights.official import detect, load_official, read_state_dict

CLASS_TABLE = "y_embedder.embedding_table.weight"


@dataclass
class TrainingState:
    """What a checkpoint holds: the averaged model, as a diffusers folder, and what is needed to resume."""

    ema: MDTTransformer
    raw: dict[str, Tensor]  # the weights that are trained
    optimizer: dict[str, Tensor]

    @classmethod
    def gather(cls, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> "TrainingState":
        """The present state, whole in the main process; where it is sharded, all processes must call together."""
        raw, moments = all_gather(model.state_dict()), all_gather_state(optimizer, optimizer_tensors(optimizer))
        return cls(all_gather_model(ema.model), raw, moments)

    def save(self, folder: Path) -> None:
        """Write transformer/, raw.safetensors and optimizer.safetensors into `folder`."""
        self.ema.save_pretrained(folder / "transformer")
        for name, tensors in (("raw", self.raw), ("optimizer", self.optimizer)):
            save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")


def resumable(run: Run) -> dict[int, Path]:
    """The checkpoints that a run can go on from: step -> folder. The others hold averaged weights alone."""
    return {step: folder for step, folder in run.checkpoints.items() if (folder / "optimizer.safetensors").exists()}


def resume(run: Run, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load the run's last checkpoint, if there is one, in place; the number of steps it has done.

    Raises:
        TrainingError: the checkpoint is damaged, or of another model or optimizer.
    """
    checkpoints = resumable(run)
    if not checkpoints:
        return 0
    step, folder = max(checkpoints.items())
    try:
        load_weights(ema.model, MDTTransformer.from_pretrained(folder / "transformer").state_dict())
        load_weights(model, load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(optimizer, shard_state(optimizer, load_file(folder / "optimizer.safetensors")))
    except Exception as error:
        raise TrainingError(
            f"{folder} cannot be resumed ({error}): delete that folder to go on from the one before, "
            "or choose another --output-dir"
        ) from error
    return step


def initialize_from(model: MDTTransformer, source: str | Path) -> str:
    """Begin with the weights of another model: of the same sizes, to train it on other classes, or of smaller ones.

    Everything must fit but the class table: where the number of classes differs, it keeps `model`'s fresh rows
    and takes over the null class. A narrower or shallower model of the same classes is grown
    (`mdt_core.weights.growth`).

    Args:
        model: freshly initialised.
        source: a run's checkpoint or a pipeline (a folder with a transformer/), a transformer's own folder, or a
            published file.

    Returns:
        in words, what was done.

    Raises:
        ValueError: there is no model, or it is of another class or does not fit; what differs is named.
    """
    other = _open(Path(source), model.config.decoder_layers)
    theirs, ours = ({"class": type(m).__name__, **m.config} for m in (other, model))
    may_differ = {"num_classes", "without"}  # a part left out shows in the keys of the state
    differing = [key for key in ours if key[0] != "_" and key not in may_differ and ours[key] != theirs.get(key)]
    if differing:
        try:
            grow(other, model)
        except ValueError as error:
            sizes = ", ".join(f"{key} {theirs.get(key)} there and {ours[key]} here" for key in differing)
            raise ValueError(f"{source} is another model: {sizes}; {error}") from error
        millions = sum(p.numel() for p in other.parameters()) / 1e6
        return f"grown from the {millions:.1f}M parameters of {source}"
    state = other.state_dict()
    if theirs["num_classes"] != ours["num_classes"]:
        table = model.state_dict()[CLASS_TABLE].clone()
        table[-1] = state[CLASS_TABLE][-1]  # the null class
        state[CLASS_TABLE] = table
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source} is another model: {' '.join(str(error).split())}") from error
    return f"beginning with the weights of {source}"


def _open(source: Path, v1_decoder_layers: int) -> MDTTransformer:
    """The model of a published file, a pipeline, a checkpoint or a transformer's folder."""
    if source.is_file():
        is_v1 = detect(read_state_dict(source))[0] is MDT  # its file alone does not say how deep its decoder is
        return load_official(source, decoder_layers=v1_decoder_layers if is_v1 else None)
    folder = source / "transformer" if (source / "transformer").is_dir() else source
    if not (folder / "config.json").is_file():
        raise ValueError(f"{source} holds no model: a checkpoint, a pipeline folder or a published file is needed")
    return MDTTransformer.from_pretrained(folder)
