"""Weights and optimizer state of which each process holds a part (FSDP2): gathered for a checkpoint, dealt out again.

On tensors that are whole, nothing here does anything. Where they are not, all processes must call together.
"""

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mdt_core.transformer import MDTTransformer


def gather(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors; of sharded ones, copies on the CPU."""
    return {name: t.full_tensor().cpu() if isinstance(t, DTensor) else t for name, t in tensors.items()}


def deal(whole: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor sharded as the one of the same name in `like`."""
    return {name: _deal(tensor, like[name]) if name in like else tensor for name, tensor in whole.items()}


def gather_model(model: MDTTransformer) -> MDTTransformer:
    """A model that is whole: `model` itself, or of a sharded one a copy on the CPU."""
    if not isinstance(model, FSDPModule):
        return model
    family = next(c for c in type(model).__mro__ if issubclass(c, MDTTransformer) and not issubclass(c, FSDPModule))
    copy = family.from_config(model.config)
    copy.load_state_dict(gather(model.state_dict()))
    return copy.eval()


def load_weights(model: MDTTransformer, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a model that may be sharded; strict."""
    model.load_state_dict(deal(state, like=model.state_dict()))


# --- optimizer state: "INDEX.NAME", where INDEX counts the parameters ----------------------------------------------


def gather_state(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of an optimizer's flat state, which may hold sharded ones, or this process's parts of such."""
    parameters = _parameters(optimizer)
    return gather({key: _as_sharded(tensor, parameters[_index(key)]) for key, tensor in flat.items()})


def deal_state(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `gather_state`: tensors sharded as the parameters that they belong to."""
    parameters = _parameters(optimizer)
    return {key: _deal(tensor, parameters[_index(key)]) for key, tensor in flat.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _index(key: str) -> int:
    return int(key.partition(".")[0])


def _as_sharded(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.dim() == 0 or isinstance(tensor, DTensor) or not isinstance(parameter, DTensor):
        return tensor
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(tensor, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def _deal(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dim() == 0 or not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
