"""How a model is trained: the settings, and what follows from them alone. Imports no torch."""

import math
from dataclasses import dataclass

# Dense bf16 TFLOP/s of one device, by a part of its name, as its maker states it.
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989}
PEAK_TFLOPS |= {"A100": 312, "L40S": 362, "L40": 181, "L4": 121}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults are the paper's MDTv2 at any size."""

    steps: int = 400_000
    batch_size: int = 256  # images per step, over all processes
    optimizer: str = "adan"  # or "adamw"
    learning_rate: float = 3e-4
    warmup_steps: int = 0  # linear from 0
    decay: float = 0.0  # share of the steps, the last ones, in which the learning rate falls linearly to 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # global norm
    ema_decay: float = 0.9999
    label_dropout: float = 0.1  # share of labels replaced by the null class; 1: unconditional
    mask_ratio: tuple[float, float] | None = (0.3, 0.5)  # share of hidden tokens, drawn per step; None: no masked pass
    min_snr_gamma: float | None = 5.0
    noise_power: float = 0.0  # above 0, noisy timesteps weigh more, see `training_terms`
    accumulation: int = 1  # of gradients, over so many micro-batches of a process
    compile: bool = False  # the blocks, by torch.compile: a minute at the start, then faster steps
    cuda_graphs: bool = False  # record the launches of a step and replay them: for a small model on one GPU
    recompute: bool = False  # activations of the blocks in the backward pass: a third more work, much less memory
    peak_tflops: float | None = None  # of one device, for model FLOPs utilisation; None: looked up by the device's name
    seed: int = 0
    log_every: int = 50
    save_every: int = 5_000
    keep_checkpoints: int = 2
    keep_sampled: bool = True  # also the averaged weights of every step at which samples are drawn
    max_bad_steps: int = 10  # skipped in a row, their gradient not finite, before the run gives up

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "warmup_steps", "weight_decay", "max_bad_steps", "noise_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0 (1e9 clips nothing), not {self.max_grad_norm}")
        for name in ("min_snr_gamma", "peak_tflops"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0 or None, not {getattr(self, name)}")
        for name in ("decay", "ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if self.mask_ratio is not None and not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ValueError(f"mask_ratio must be two shares, (least, most), from 0 to below 1, not {self.mask_ratio}")

    def images_of_process(self, processes: int) -> int:
        """How many of a step's images each of `processes` trains on.

        Raises:
            ValueError: `batch_size` does not divide among the processes and their micro-batches.
        """
        if self.batch_size % (processes * self.accumulation):
            raise ValueError(
                f"batch_size {self.batch_size} does not divide among {processes} processes "
                f"x {self.accumulation} micro-batches"
            )
        return self.batch_size // processes


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and the last checkpoint is whole."""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of step `step` (from 0)."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    falling = config.steps * config.decay
    decay = min(1.0, (config.steps - step) / falling) if falling else 1.0
    return config.learning_rate * warmup * decay


def num_kept(num_tokens: int, mask_ratio: float) -> int:
    """K, how many tokens the encoder sees in a masked pass.

    From 256 tokens on a multiple of 8, which suits tensor cores and makes few distinct shapes. Of fewer tokens 8 would
    be too large a share: of 64, K is even.
    """
    step = min(8, max(1, num_tokens // 32))
    return max(1, round(num_tokens * (1 - mask_ratio) / step) * step)


def exponential_steps(total: int, first: int = 1) -> set[int]:
    """Steps at equal distances on a logarithmic axis, the last one included: 1, 2, 4, ... total."""
    return {first * 2**i for i in range(int(math.log2(total / first)) + 1)} | {total}
