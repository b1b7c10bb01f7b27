"""Classifier-free guidance with MDT's power-cosine schedule, as a closure: a sampler never sees a class label.

Papers: classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); its power-cosine schedule (MDT, Gao et al.
2023, arXiv:2303.14389). The schedule is that of the published code: the printed formula has no floor of 1 and runs t
the other way. Where the weight is within a tolerance of 1 the unconditional branch would change next to nothing, and is
not run.

Shapes: x_t is (N, C, H, W), class_labels (N,) or, as weights of every class, (N, num_classes + 1), model output
(N, 2C, H, W), epsilon channels then variance channels.
"""

import math
from collections.abc import Callable
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS


# MDT, power-cosine guidance: 1 + (w - 1) (1 - cos(pi (1 - t/T)^s)) / 2
def guidance_weight(timesteps: Tensor | int, guidance_scale: float, guidance_power: float) -> Tensor:
    """Weight of the conditional branch: 1 (conditional only) at pure noise, `guidance_scale` at t = 0; float64.

    A larger `guidance_power` keeps it near 1 for longer. Power 0 is constant guidance: `guidance_scale` at every t.
    """
    progress = 1 - torch.as_tensor(timesteps, dtype=torch.float64) / NUM_TIMESTEPS
    return 1 + (guidance_scale - 1) * (1 - torch.cos(math.pi * progress**guidance_power)) / 2


def check_guidance(guidance_scale: float, guidance_power: float) -> None:
    """ValueError unless both are finite numbers of at least 0."""
    for name, value in [("scale", guidance_scale), ("power", guidance_power)]:
        if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value >= 0):
            raise ValueError(f"guidance_{name} must be a finite number of at least 0, not {value!r}")


def null_labels(class_labels: Tensor, null_class: int) -> Tensor:
    """Of no class, as many as `class_labels` and like them: (N,), or (N, num_classes + 1) weights."""
    null = torch.full((len(class_labels),), null_class, device=class_labels.device)
    return null if class_labels.ndim == 1 else F.one_hot(null, class_labels.shape[1]).to(class_labels.dtype)


class Guided:
    """A denoiser for one batch of labels, `denoise(x_t, t) -> (N, 2C, H, W)`; made by `guide`.

    Attributes:
        evaluations: how often a branch was evaluated for the batch, conditional and unconditional counted each.
        skipped: how often the unconditional branch was left out because the weight was near 1.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        class_labels: Tensor,
        null_class: int,
        weight: Callable[[int], float],
        guidance_channels: int | None,
        skip_tolerance: float,
    ):
        self.model, self.class_labels, self.weight = model, class_labels, weight
        self.guidance_channels, self.skip_tolerance = guidance_channels, skip_tolerance
        null = null_labels(class_labels, null_class)
        self.both_labels = torch.cat([class_labels, null])
        self.unconditional = torch.equal(class_labels, null)  # then both branches are the same
        self.evaluations = self.skipped = 0

    def __call__(self, x_t: Tensor, t: int, keep: Tensor | None = None) -> Tensor:
        """The guided model output at timestep `t`, the same for the whole batch.

        Args:
            x_t: (N, C, H, W).
            t: original timestep, 0..999.
            keep: (N, K) indices of the tokens that the encoder sees, for the masked pass; None for all of them.
        """
        weight = self.weight(t)
        skip = abs(weight - 1) < self.skip_tolerance
        if skip or self.unconditional:
            self.evaluations += 1
            self.skipped += skip and not self.unconditional
            return self._evaluate(x_t, t, self.class_labels, keep)
        self.evaluations += 2
        both = self._evaluate(
            torch.cat([x_t, x_t]),
            t,
            self.both_labels,
            None if keep is None else torch.cat([keep, keep]),
        )
        return self._combine(*both.chunk(2), weight)

    def _evaluate(self, x_t: Tensor, t: int, class_labels: Tensor, keep: Tensor | None) -> Tensor:
        timesteps = torch.full((len(x_t),), int(t))  # on the CPU: whoever reads them there waits for no GPU
        # A model without a masked pass takes no `keep`.
        return self.model(x_t, timesteps, class_labels, **({} if keep is None else {"keep": keep}))

    # Classifier-free guidance (6), in the form eps_uncond + w (eps_cond - eps_uncond)
    def _combine(self, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
        """Guide the first epsilon channels; the others and the variance are the conditional branch's."""
        channels = conditional.shape[1] // 2
        if self.guidance_channels is not None:
            channels = min(channels, self.guidance_channels)
        difference = conditional[:, :channels] - unconditional[:, :channels]
        guided = unconditional[:, :channels] + weight * difference
        return torch.cat([guided, conditional[:, channels:]], dim=1)


def guide(
    model: Callable[..., Tensor],
    class_labels: Tensor,
    *,
    null_class: int,
    guidance_scale: float,
    guidance_power: float,
    guidance_channels: int | None = 3,
    skip_tolerance: float = 1e-2,
) -> Guided:
    """Bind labels and guidance to a model: `model(x, timesteps, class_labels[, keep]) -> (N, 2C, H, W)`.

    The model is given its timesteps on the CPU.

    Args:
        class_labels: (N,) int64, or (N, num_classes + 1) weights that mix classes. Where an image is of `null_class`
            alone, both branches agree: nothing changes.
        null_class: the label of "no class".
        guidance_scale: w, at least 0; 1 is conditional only.
        guidance_power: s, at least 0; 0 is constant guidance.
        guidance_channels: the epsilon channels that are guided, from the first; 3 as published, None for all.
        skip_tolerance: the unconditional branch is not run where the weight is closer to 1 than this; 0 runs it always.

    Raises:
        ValueError: if a number is out of its range.
    """
    check_guidance(guidance_scale, guidance_power)
    if guidance_channels is not None and not (isinstance(guidance_channels, int) and guidance_channels >= 1):
        raise ValueError(f"guidance_channels must be at least 1, or None for all of them, not {guidance_channels!r}")
    if not skip_tolerance >= 0:
        raise ValueError(f"skip_tolerance must be at least 0, not {skip_tolerance}")

    def weight(t: int) -> float:
        return guidance_weight(t, guidance_scale, guidance_power).item()

    return Guided(model, class_labels, null_class, weight, guidance_channels, skip_tolerance)
