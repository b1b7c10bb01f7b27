"""How a training begins with the weights of another model, of other sizes, classes and additions too."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from mdt_core.layers import AdapterShares, LabelEmbedder
from mdt_core.runs import model_index_of
from mdt_core.transformer import MDT, MDTTransformer
from mdt_core.weights.growth import grow
from mdt_core.weights.hub import listed
from mdt_core.weights.official import detect, load_official, read_state_dict

Labels = Mapping[int, str]  # class index -> name


def initialize_from(model: MDTTransformer, source: str | Path, id2label: Labels | None = None) -> str:
    """Begin with the weights of another model.

    A class keeps its row of the class table by its name, wherever it stands in the two models; a class that the other
    model does not know begins as the mean of its classes. Where names are missing on one side, the rows go by index if
    the numbers of classes agree, else all are that mean. The null class is taken over. A narrower or shallower model is
    grown (`mdt_core.weights.growth`); all else must fit.

    Args:
        model: freshly initialised.
        source: a run's checkpoint or a pipeline (a folder with a transformer/), a transformer's own folder, or a
            published file.
        id2label: the names of `model`'s classes.

    Returns:
        in words, what was done, and which classes were kept, added and dropped.

    Raises:
        ValueError: there is no model, or it is of another class or does not fit; what differs is named.
    """
    other = _open(Path(source), model.config.decoder_layers)
    classes = adopt_classes(other, _class_names(Path(source)), id2label or {}, model.config.num_classes)
    theirs, ours = ({"class": type(m).__name__, **m.config} for m in (other, model))
    # A part left out shows in the keys of the state.
    differing = [key for key in ours if key[0] != "_" and key != "without" and ours[key] != theirs.get(key)]
    if differing:
        try:
            grow(other, model)
        except ValueError as error:
            sizes = ", ".join(f"{key} {theirs.get(key)} there and {ours[key]} here" for key in differing)
            raise ValueError(f"{source} is another model: {sizes}; {error}") from error
        millions = sum(p.numel() for p in other.parameters()) / 1e6
        return f"grown from the {millions:.1f}M parameters of {source}; {classes}"
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{source} is another model: {' '.join(str(error).split())}") from error
    return f"beginning with the weights of {source}; {classes}"


@torch.no_grad()
def adopt_classes(model: MDTTransformer, theirs: Labels, ours: Labels, num_classes: int | None = None) -> str:
    """Give a model the class table of other classes, in place.

    A class keeps its row by its name; one that is new begins as the mean of the old ones. To begin as the nearest of
    them is no better after a few steps (train/LOG.md).

    Args:
        model: trained.
        theirs: the names of its classes.
        ours: the names that it is to have. Where names are missing on one side, rows go by index if the numbers agree.
        num_classes: how many it is to have; None: as there are names.

    Returns:
        in words, which classes were kept, added and dropped.
    """
    num_classes = len(ours) if num_classes is None else num_classes
    old, before = model.y_embedder.embedding_table.weight, model.config.num_classes
    if theirs and ours:
        index_of = {name: index for index, name in theirs.items()}
        origin = [index_of.get(ours[label]) for label in range(num_classes)]
    else:
        origin = [label if num_classes == before else None for label in range(num_classes)]
    table = LabelEmbedder(num_classes, old.shape[1]).to(old)
    mean = old[:before].mean(dim=0) if before else old[0]
    for row, index in zip(table.embedding_table.weight, [*origin, before], strict=True):
        row.copy_(mean if index is None else old[index])
    kept = set(origin) - {None}
    added = [ours.get(label, f"class {label}") for label, index in enumerate(origin) if index is None]
    dropped = [theirs.get(index, f"class {index}") for index in range(before) if index not in kept]
    model.y_embedder = table
    adapters = [[label for label, index in enumerate(origin) if index in classes] for classes in model.config.adapters]
    model.register_to_config(num_classes=num_classes, adapters=adapters)
    if adapters:
        model.adapter_shares = AdapterShares(num_classes, adapters, model.config.adapter_rank).to(old)
    return f"{len(kept)} classes kept{_named('added', added)}{_named('dropped', dropped)}"


@torch.no_grad()
def add_adapter(model: MDTTransformer, classes: Sequence[int]) -> MDTTransformer:
    """A copy of a model in which some classes have a low-rank addition of their own, which is 0 at first.

    What it learns changes these classes alone: the others, and the null class, stay as they are, but for rounding.
    """
    larger = type(model).from_config(model.config, adapters=[*model.config.adapters, list(classes)])
    nn.Module.to(larger, model.device, model.dtype).train(model.training)  # diffusers' own warns of other types
    tensors = larger.state_dict()
    for name, tensor in model.state_dict().items():
        tensors[name][tuple(map(slice, tensor.shape))] = tensor  # of an addition the ranks that are there come first
    return larger


def _named(what: str, names: Sequence[str]) -> str:
    return f", {len(names)} {what} ({listed(list(names), most=5)})" if names else ""


def _class_names(source: Path) -> dict[int, str]:
    """The class names of a pipeline, or of the run that a checkpoint belongs to; empty where there are none."""
    try:
        names = json.loads(model_index_of(source).read_text("utf-8")).get("id2label")
    except (ValueError, OSError):
        return {}
    return {int(label): str(name) for label, name in (names or {}).items()}


def _open(source: Path, v1_decoder_layers: int) -> MDTTransformer:
    """The model of a published file, a pipeline, a checkpoint or a transformer's folder."""
    if source.is_file():
        is_v1 = detect(read_state_dict(source))[0] is MDT  # its file alone does not say how deep its decoder is
        return load_official(source, decoder_layers=v1_decoder_layers if is_v1 else None)
    folder = source / "transformer" if (source / "transformer").is_dir() else source
    if not (folder / "config.json").is_file():
        raise ValueError(f"{source} holds no model: a checkpoint, a pipeline folder or a published file is needed")
    return MDTTransformer.from_pretrained(folder)
