"""What a model costs to train: multiply-adds as torch counts them, against the peak of the device."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdt_core.training.config import PEAK_TFLOPS, TrainingConfig, num_kept
from mdt_core.transformer import MDTTransformer


def forward_macs(model: MDTTransformer, keep: int | None = None) -> int:
    """Multiply-adds of one image's forward pass, counted on the meta device.

    Args:
        model: on any device, the meta device included.
        keep: tokens that the encoder sees in a masked pass; None: the full pass.
    """
    config = model.config
    with torch.device("meta"), torch.no_grad():
        on_meta = model if model.device.type == "meta" else type(model).from_config(config)
        x = torch.empty(1, config.in_channels, config.sample_size, config.sample_size)
        index = torch.empty(1, dtype=torch.long)
        kept = None if keep is None else torch.empty(1, keep, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            on_meta(x, index, index, kept)
    return counter.get_total_flops() // 2


def step_flops(model: MDTTransformer, config: TrainingConfig) -> int:
    """Floating-point operations of one step over all processes.

    A multiply-add is two, and backward costs twice what forward does. Recomputed activations are no useful work, and
    not counted.
    """
    macs = forward_macs(model)
    if config.mask_ratio is not None:
        macs += forward_macs(model, num_kept(model.num_tokens, sum(config.mask_ratio) / 2))
    return 6 * macs * config.batch_size


def seconds_at_peak(
    model: MDTTransformer, config: TrainingConfig, device: torch.device, num_devices: int
) -> float | None:
    """What one step would take if all devices ran at their peak in bf16, which MFU compares with; None: not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    tflops = config.peak_tflops or next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return step_flops(model, config) / (tflops * 1e12 * num_devices) if tflops else None
