"""Weights and optimizer state of which each process holds a part (FSDP2): gathered for a checkpoint, dealt out again.

On tensors that are whole, nothing here does anything. Where they are not, all processes must call together.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mdt_core.transformer import MDTTransformer


def gather(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors; of sharded ones, copies on the CPU in the process that writes files, and none in the others."""
    whole = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            whole[name] = tensor
            continue
        full = tensor.full_tensor()  # by all processes
        if dist.get_rank() == 0:
            whole[name] = full.cpu()
    return whole


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a sharded (FSDP2) tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def deal(whole: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor sharded as the one of the same name in `like`."""
    return {name: _deal(tensor, like[name]) if name in like else tensor for name, tensor in whole.items()}


def gather_model(model: MDTTransformer) -> MDTTransformer:
    """A model that is whole: `model` itself, or of a sharded one a copy; without numbers where `gather` makes none."""
    if not isinstance(model, FSDPModule):
        return model
    family = next(c for c in type(model).__mro__ if issubclass(c, MDTTransformer) and not issubclass(c, FSDPModule))
    with torch.device("meta"):
        copy = family.from_config(model.config)
    whole = gather(model.state_dict())
    if dist.get_rank() == 0:
        copy.load_state_dict(whole, assign=True)
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
