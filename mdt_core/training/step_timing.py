"""How long a training step takes here, and in which precision: measured, for no table knows every machine."""

import time
from copy import deepcopy

import torch

from mdt_core.diffusion import Diffusion
from mdt_core.losses import training_terms
from mdt_core.transformer import MDTTransformer

MOST_ROWS = 16  # that a CPU is given: its time grows with every picture, and is measured in seconds


def seconds_per_step(model: MDTTransformer, batch_size: int, threads: int | None = None) -> tuple[float, torch.dtype]:
    """The seconds of a step in the faster of float32 and bfloat16 autocast, and that type; a few seconds.

    Args:
        model: is copied, and not changed. What it does not learn costs no gradient here either.
        batch_size: pictures of a step. A CPU is given 16 of them at most.
        threads: how many threads the step may use; None: as many as now.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        model = deepcopy(model).float().train()
        types = [torch.float32] if model.device.type == "mps" else [torch.float32, torch.bfloat16]
        rows = min(batch_size, MOST_ROWS) if model.device.type == "cpu" else batch_size
        seconds = {dtype: _seconds(model, rows, dtype) * batch_size / rows for dtype in types}
    finally:
        torch.set_num_threads(before)
    fastest = min(seconds, key=seconds.get)
    return seconds[fastest], fastest


def _seconds(model: MDTTransformer, rows: int, dtype: torch.dtype) -> float:
    """Of a full pass, forward and backward: the better of two, for other programs may have held one up."""
    config, device = model.config, model.device
    x = torch.randn(rows, config.in_channels, config.sample_size, config.sample_size, device=device)
    taken = []
    for count in (min(rows, 2), rows, rows):  # the first one makes ready
        timesteps = torch.randint(1000, (count,), device=device)
        labels = torch.full((count,), config.num_classes, device=device)
        begun = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            terms = training_terms(model, Diffusion(), x[:count], timesteps, labels, torch.randn_like(x[:count]))
        terms["loss"].mean().backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
