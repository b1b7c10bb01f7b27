"""What a model costs to train: multiply-adds as torch counts them, against the peak of the device."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdt_core.training.config import PEAK_TFLOPS, TrainingConfig, num_kept
from mdt_core.transformer import MDTTransformer


def forward_macs(model: MDTTransformer, keep: int | None = None) -> int:
    """Multiply-adds of one image's forward pass, as a model without storage makes them.

    Args:
        model: on any device, the meta device included.
        keep: tokens that the encoder sees in a masked pass; None: the full pass.
    """
    settings = model.config
    with torch.device("meta"), torch.no_grad():
        twin = model if model.device.type == "meta" else type(model).from_config(settings)
        x = torch.empty(1, settings.in_channels, settings.sample_size, settings.sample_size)
        number = torch.empty(1, dtype=torch.long)
        kept = None if keep is None else torch.empty(1, keep, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            twin(x, number, number, kept)
    return counter.get_total_flops() // 2


def step_flops(model: MDTTransformer, config: TrainingConfig) -> int:
    """Floating-point operations of one step: forward and, twice as dear, backward; recomputation is no useful work."""
    macs = forward_macs(model)
    if config.mask_ratio is not None:
        macs += forward_macs(model, num_kept(model.num_tokens, sum(config.mask_ratio) / 2))
    return 6 * macs * config.batch_size


def peak_flops(device: torch.device, given: float | None = None) -> float | None:
    """The device's floating-point operations per second in bf16, from TFLOP/s `given` or its name; None: not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    tera = given or next((tera for part, tera in PEAK_TFLOPS.items() if part in name), None)
    return tera and tera * 1e12
