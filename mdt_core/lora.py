"""Low-rank additions to a model's weights (LoRA, Hu et al. 2021, arXiv:2106.09685): W + B A in the place of W.

A file of them has the form that diffusers and peft use: for each layer NAME of the transformer
`transformer.NAME.lora_A.weight` (rank, in) and `transformer.NAME.lora_B.weight` (out, rank).
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LORA_FILE = "pytorch_lora_weights.safetensors"  # its name in a model's folder
PREFIX = "transformer."

Model = TypeVar("Model", bound=nn.Module)


class LoRA(nn.Module):
    """An addition to some linear layers of a model, nothing at first: B is 0.

    Args:
        model: whose layers they are; it is not kept.
        names: of the layers.
        rank: of every addition.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], rank: int):
        super().__init__()
        self.names = list(names)
        layers = [model.get_submodule(name) for name in self.names]
        sizes = [(layer.in_features, layer.out_features, layer.weight.device) for layer in layers]
        self.down = nn.ParameterList(torch.empty(rank, inputs, device=device) for inputs, _, device in sizes)  # A
        self.up = nn.ParameterList(torch.zeros(outputs, rank, device=device) for _, outputs, device in sizes)  # B
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of the layers with their additions, by the names that the model has for them."""
        factors = zip(self.names, self.down, self.up, strict=True)
        return {f"{name}.weight": model.get_submodule(name).weight + up @ down for name, down, up in factors}

    def save(self, path: Path) -> None:
        """Write the file, in float16."""
        tensors = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            tensors |= {f"{PREFIX}{name}.lora_A.weight": down, f"{PREFIX}{name}.lora_B.weight": up}
        save_file({name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path, model: nn.Module) -> "LoRA":
        """Read a file for a model.

        Raises:
            ValueError: it cannot be read, is not finite, or is for another model.
        """
        try:
            tensors = {name.removeprefix(PREFIX): tensor.float() for name, tensor in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        ends = ".lora_A.weight", ".lora_B.weight"
        names = sorted(name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0]))
        linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        if not names or set(tensors) != {name + end for name in names for end in ends} or not set(names) <= set(linear):
            raise ValueError(f"{path} holds no low-rank addition to the layers of this model")
        lora = cls(model, names, len(tensors[names[0] + ends[0]]))
        for name, down, up in zip(names, lora.down, lora.up, strict=True):
            for parameter, tensor in zip((down, up), (tensors[name + end] for end in ends), strict=True):
                if tensor.shape != parameter.shape or not tensor.isfinite().all():
                    raise ValueError(f"{path}: {name} has another size than in this model, or is not finite")
                parameter.data.copy_(tensor)
        return lora


@torch.no_grad()
def merge_lora(model: Model, lora: LoRA) -> Model:
    """A copy of the model with the additions in its weights."""
    merged = deepcopy(model)
    for name, weight in lora.to(model.device).weights(model).items():
        merged.get_parameter(name).copy_(weight)
    return merged.eval().requires_grad_(False)
