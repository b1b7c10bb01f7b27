"""What a checkpoint of a run holds; how a run goes on from its last one, or begins with another model's weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdt_core.runs import Run
from mdt_core.training.config import TrainingError
from mdt_core.training.ema import EMA
from mdt_core.training.optimizers import load_optimizer_tensors, optimizer_tensors
from mdt_core.training.sharding import deal_state, gather, gather_model, gather_state, load_weights
from mdt_core.transformer import MDT, MDTTransformer
from mdt_core.weights.growth import grow
from mdt_core.weights.official import detect, load_official, read_state_dict

CLASS_TABLE = "y_embedder.embedding_table.weight"


@dataclass
class Checkpoint:
    """What a checkpoint holds. The averaged weights are a diffusers folder; the rest serves to resume."""

    average: MDTTransformer
    raw: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @classmethod
    def of(cls, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> "Checkpoint":
        """The present state, gathered where processes hold parts of it: all of them must ask together."""
        raw, moments = gather(model.state_dict()), gather_state(optimizer, optimizer_tensors(optimizer))
        return cls(gather_model(ema.model), raw, moments)

    def write(self, folder: Path) -> None:
        self.average.save_pretrained(folder / "transformer")
        save_file(_contiguous(self.raw), folder / "raw.safetensors")
        save_file(_contiguous(self.optimizer), folder / "optimizer.safetensors")


def resumable(run: Run) -> dict[int, Path]:
    """The checkpoints that a run can go on from: step -> folder. The others hold averaged weights alone."""
    return {step: folder for step, folder in run.checkpoints.items() if (folder / "optimizer.safetensors").exists()}


def resume(run: Run, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load the run's last checkpoint into model, average and optimizer; the number of steps it has done."""
    whole = resumable(run)
    if not whole:
        return 0
    step, folder = max(whole.items())
    try:
        load_weights(ema.model, MDTTransformer.from_pretrained(folder / "transformer").state_dict())
        load_weights(model, load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(optimizer, deal_state(optimizer, load_file(folder / "optimizer.safetensors")))
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
    source = Path(source)
    if source.is_file():
        version, _ = detect(read_state_dict(source))  # v1's file alone does not say how many blocks its decoder has
        other = load_official(source, decoder_layers=model.config.decoder_layers if version is MDT else None)
    else:
        folder = source / "transformer" if (source / "transformer").is_dir() else source
        if not (folder / "config.json").is_file():
            raise ValueError(f"{source} holds no model: a checkpoint, a pipeline folder or a published file is needed")
        other = MDTTransformer.from_pretrained(folder)
    theirs, ours = ({"class": type(m).__name__, **m.config} for m in (other, model))
    free = {"num_classes", "without"}  # a part left out shows in the keys
    differing = [key for key in ours if key[0] != "_" and key not in free and ours[key] != theirs.get(key)]
    if differing:
        try:
            grow(other, model)
        except ValueError as error:
            sizes = ", ".join(f"{key} {theirs.get(key)} there and {ours[key]} here" for key in differing)
            raise ValueError(f"{source} is another model: {sizes}; {error}") from error
        millions = sum(p.numel() for p in other.parameters()) / 1e6
        return f"grown from the {millions:.1f}M parameters of {source}"
    state = other.state_dict()
    if len(state[CLASS_TABLE]) != len(model.state_dict()[CLASS_TABLE]):
        table = model.state_dict()[CLASS_TABLE].clone()
        table[-1] = state[CLASS_TABLE][-1]  # the null class
        state[CLASS_TABLE] = table
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source} is another model: {' '.join(str(error).split())}") from error
    return f"beginning with the weights of {source}"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
