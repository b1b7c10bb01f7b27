"""Weights and optimizer state of which each process holds a shard (FSDP2): gathered for a checkpoint, sharded again.

Tensors that are whole pass through unchanged. Where they are sharded, all processes must call together.
"""

from copy import deepcopy

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mdt_core.transformer import MDTTransformer


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def all_gather(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors. Of sharded ones the main process gets copies on the CPU, and the others get none."""
    whole = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            whole[name] = tensor
            continue
        full = tensor.full_tensor()  # by all processes
        if dist.get_rank() == 0:
            whole[name] = full.cpu()
    return whole


def _shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dim() == 0 or not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


# --- the model -----------------------------------------------------------------------------------------------


def shard_models(accelerator: Accelerator, *models: MDTTransformer) -> None:
    """Shard the weights of models in place, as the launcher's FSDP configuration says.

    Autocast alone lowers the precision, as without FSDP: FSDP's own policy would also lower the stream of tokens and
    the sums of gradients.
    """
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    for model in models:
        fsdp2_prepare_model(accelerator, model)


def all_gather_model(model: MDTTransformer) -> MDTTransformer:
    """A whole model: `model` itself, or a copy of a sharded one; the copy has weights in the main process alone."""
    if not isinstance(model, FSDPModule):
        return model
    family = next(c for c in type(model).__mro__ if issubclass(c, MDTTransformer) and not issubclass(c, FSDPModule))
    with torch.device("meta"):
        copy = family.from_config(model.config)
    whole = all_gather(model.state_dict())
    if dist.get_rank() == 0:
        copy.load_state_dict(whole, assign=True)
        copy.adapter_shares = deepcopy(model.adapter_shares)  # its table is made, not loaded
    return copy.eval()


def load_weights(model: MDTTransformer, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a model that may be sharded; strict."""
    like = model.state_dict()
    model.load_state_dict({name: _shard_like(w, like[name]) if name in like else w for name, w in state.items()})


# --- the optimizer's state: "INDEX.NAME", where INDEX counts the parameters ---------------------------------------


def all_gather_state(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of an optimizer's flat state, whose tensors may be sharded ones or plain shards of this process."""
    parameters = _parameters(optimizer)
    return all_gather({key: _as_sharded(tensor, parameters[_index(key)]) for key, tensor in state.items()})


def shard_state(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `all_gather_state`: each tensor sharded as the parameter that it belongs to."""
    parameters = _parameters(optimizer)
    return {key: _shard_like(tensor, parameters[_index(key)]) for key, tensor in state.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _index(key: str) -> int:
    return int(key.partition(".")[0])


def _as_sharded(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.dim() == 0 or isinstance(tensor, DTensor) or not isinstance(parameter, DTensor):
        return tensor
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(tensor, mesh, placements, shape=parameter.shape, stride=parameter.stride())
