"""Guidance as a closure over labels: a sampler never sees a class label.

A prediction is moved away from a weak one, `weak + w (strong - weak)`. What makes it weak is the kind of guidance:

    class   it is not told the class: classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).
    mask    it is told the class, but its encoder sees half of the tokens: MDT's masked pass, in the manner of Sparse
            Guidance (arXiv:2601.01608). Images of no class are guided too.
    both    it is told nothing of the class, and sees half of the tokens.

The weight w follows MDT's power-cosine schedule (Gao et al. 2023, arXiv:2303.14389), that of the published code: the
printed formula has no floor of 1 and runs t the other way. Outside of an interval of timesteps nothing is guided
(Kynkaanniemi et al. 2024, arXiv:2404.07724). The weak branch is not run there, nor where the weight is within a
tolerance of 1 and it would change next to nothing.

Shapes: x_t is (N, C, H, W), class_labels (N,) or, as weights of every class, (N, num_classes + 1), model output
(N, 2C, H, W), epsilon channels then variance channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.masking import draw_keep

KINDS = ("class", "mask", "both")
SKIP_TOLERANCE = 1e-2  # the weak branch is left out where the weight is closer to 1 than this
KEPT = 0.5  # of the tokens, by the weak branch of "mask" and "both": MDTv2 is trained with 0.5 to 0.7


# MDT, power-cosine guidance: 1 + (w - 1) (1 - cos(pi (1 - t/T)^s)) / 2
def guidance_weight(timesteps: Tensor | int, guidance_scale: float, guidance_power: float) -> Tensor:
    """Weight of the conditional branch: 1 (conditional only) at pure noise, `guidance_scale` at t = 0; float64.

    A larger `guidance_power` keeps it near 1 for longer. Power 0 is constant guidance: `guidance_scale` at every t.
    """
    progress = 1 - torch.as_tensor(timesteps, dtype=torch.float64) / NUM_TIMESTEPS
    return 1 + (guidance_scale - 1) * (1 - torch.cos(math.pi * progress**guidance_power)) / 2


@dataclass(frozen=True)
class Guidance:
    """How strongly, away from what, and when. The defaults are the published ones.

    Raises:
        ValueError: an entry is out of its range, or of another type.
    """

    guidance_scale: float = 3.8  # w, at least 0; 1 is no guidance
    guidance_power: float = 4.0  # s, at least 0; 0 is constant guidance
    guidance_kind: str = "class"  # one of KINDS
    guidance_low: int = 0  # the timesteps that are guided, 0..999, both ends included
    guidance_high: int = NUM_TIMESTEPS - 1

    def __post_init__(self):
        for name in ("guidance_scale", "guidance_power"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, not {value!r}")
        if not isinstance(self.guidance_kind, str) or self.guidance_kind not in KINDS:
            raise ValueError(f"guidance_kind must be one of {', '.join(KINDS)}, not {self.guidance_kind!r}")
        for name in ("guidance_low", "guidance_high"):
            t = getattr(self, name)
            if isinstance(t, bool) or not isinstance(t, Integral) or not 0 <= t < NUM_TIMESTEPS:
                raise ValueError(f"{name} must be a timestep from 0 to {NUM_TIMESTEPS - 1}, not {t!r}")
        if self.guidance_low > self.guidance_high:
            raise ValueError(f"guidance_low, {self.guidance_low}, is above guidance_high, {self.guidance_high}")

    def weight(self, t: int) -> float:
        """The strong branch's at a timestep; 1 outside of the interval."""
        return guidance_weight(t, self.guidance_scale, self.guidance_power).item() if self._covers(t) else 1.0

    def is_on(self, t: int, skip_tolerance: float = SKIP_TOLERANCE) -> bool:
        """Whether the weak branch is run at a timestep: in the interval, and not closer to 1 than the tolerance."""
        return self._covers(t) and abs(self.weight(t) - 1) >= skip_tolerance

    def _covers(self, t: int) -> bool:
        return self.guidance_low <= t <= self.guidance_high


def null_labels(class_labels: Tensor, null_class: int) -> Tensor:
    """Of no class, as many as `class_labels` and like them: (N,), or (N, num_classes + 1) weights."""
    null = torch.full((len(class_labels),), null_class, device=class_labels.device)
    return null if class_labels.ndim == 1 else F.one_hot(null, class_labels.shape[1]).to(class_labels.dtype)


class Guided:
    """A denoiser for one batch of labels, `denoise(x_t, t) -> (N, 2C, H, W)`; made by `guide`.

    Attributes:
        evaluations: how often a branch was evaluated for the batch, strong and weak counted each.
        skipped: how often the weak branch was left out.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        class_labels: Tensor,
        null_class: int,
        guidance: Guidance,
        guidance_channels: int | None,
        skip_tolerance: float,
        mask_noise: Callable[[], Tensor] | None,
    ):
        self.model, self.class_labels, self.guidance = model, class_labels, guidance
        self.guidance_channels, self.skip_tolerance, self.mask_noise = guidance_channels, skip_tolerance, mask_noise
        null = null_labels(class_labels, null_class)
        self.weak_labels = class_labels if guidance.guidance_kind == "mask" else null
        by_class = guidance.guidance_kind == "class"
        self.unconditional = by_class and torch.equal(class_labels, null)  # then both branches are the same
        self.evaluations = self.skipped = 0

    def __call__(self, x_t: Tensor, t: int, keep: Tensor | None = None, guided: bool = True) -> Tensor:
        """The guided model output at timestep `t`, the same for the whole batch.

        Args:
            x_t: (N, C, H, W).
            t: original timestep, 0..999.
            keep: (N, K) indices of the tokens that the encoder sees, for the masked pass; None for all of them.
            guided: false for the strong branch alone, whatever the weight.
        """
        skip = not self.guidance.is_on(t, self.skip_tolerance)
        if skip or self.unconditional or not guided:
            self.evaluations += 1
            self.skipped += skip and guided and not self.unconditional
            return self._evaluate(x_t, t, self.class_labels, keep)
        self.evaluations += 2
        return self._combine(*self._branches(x_t, t, keep), self.guidance.weight(t))

    def _branches(self, x_t: Tensor, t: int, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The strong and the weak output. Where both see the same tokens, they are one call."""
        if self.mask_noise is not None:
            strong = self._evaluate(x_t, t, self.class_labels, keep)
            return strong, self._evaluate(x_t, t, self.weak_labels, weak_keep(self.mask_noise().to(x_t.device), keep))
        both_labels = torch.cat([self.class_labels, self.weak_labels])
        strong, weak = self._evaluate(
            torch.cat([x_t, x_t]), t, both_labels, None if keep is None else torch.cat([keep, keep])
        ).chunk(2)
        return strong, weak

    def _evaluate(self, x_t: Tensor, t: int, class_labels: Tensor, keep: Tensor | None) -> Tensor:
        timesteps = torch.full((len(x_t),), int(t))  # on the CPU: whoever reads them there waits for no GPU
        # A model without a masked pass takes no `keep`.
        return self.model(x_t, timesteps, class_labels, **({} if keep is None else {"keep": keep}))

    # Classifier-free guidance (6), in the form eps_weak + w (eps_strong - eps_weak)
    def _combine(self, strong: Tensor, weak: Tensor, weight: float) -> Tensor:
        """Guide the first epsilon channels; the others and the variance are the strong branch's."""
        channels = strong.shape[1] // 2
        if self.guidance_channels is not None:
            channels = min(channels, self.guidance_channels)
        guided = weak[:, :channels] + weight * (strong[:, :channels] - weak[:, :channels])
        return torch.cat([guided, strong[:, channels:]], dim=1)


def weak_keep(noise: Tensor, keep: Tensor | None) -> Tensor:
    """The tokens that a weak branch sees: those of the strong one with the smallest noise, KEPT of them.

    Args:
        noise: (N, T), uniform draws for all tokens of an image.
        keep: (N, K) those that the strong branch sees; None for all.

    Returns:
        (N, max(1, round(KEPT K))) indices.
    """
    seen = noise if keep is None else noise.gather(1, keep)
    chosen = draw_keep(seen, max(1, round(KEPT * seen.shape[1])))
    return chosen if keep is None else keep.gather(1, chosen)


def guide(
    model: Callable[..., Tensor],
    class_labels: Tensor,
    *,
    null_class: int,
    guidance_scale: float,
    guidance_power: float,
    guidance_kind: str = "class",
    guidance_low: int = 0,
    guidance_high: int = NUM_TIMESTEPS - 1,
    guidance_channels: int | None = 3,
    skip_tolerance: float = SKIP_TOLERANCE,
    mask_noise: Callable[[], Tensor] | None = None,
) -> Guided:
    """Bind labels and guidance to a model: `model(x, timesteps, class_labels[, keep]) -> (N, 2C, H, W)`.

    The model is given its timesteps on the CPU.

    Args:
        class_labels: (N,) int64, or (N, num_classes + 1) weights that mix classes. An image of `null_class` alone is
            not guided by class: both branches agree.
        null_class: the label of "no class".
        guidance_scale, guidance_power, guidance_kind, guidance_low, guidance_high: see `Guidance`.
        guidance_channels: the epsilon channels that are guided, from the first; 3 as published, None for all.
        skip_tolerance: the weak branch is not run where the weight is closer to 1 than this; 0 runs it always.
        mask_noise: for the kinds "mask" and "both", called at each guided step: (N, T) uniform draws, of which the
            weak branch's mask is made.

    Raises:
        ValueError: if a number is out of its range.
    """
    guidance = Guidance(guidance_scale, guidance_power, guidance_kind, guidance_low, guidance_high)
    if guidance_channels is not None and not (isinstance(guidance_channels, int) and guidance_channels >= 1):
        raise ValueError(f"guidance_channels must be at least 1, or None for all of them, not {guidance_channels!r}")
    if not skip_tolerance >= 0:
        raise ValueError(f"skip_tolerance must be at least 0, not {skip_tolerance}")
    if guidance_kind != "class" and mask_noise is None:
        raise ValueError(f'guidance_kind "{guidance_kind}" draws masks: pass mask_noise')
    mask_noise = None if guidance_kind == "class" else mask_noise
    return Guided(model, class_labels, null_class, guidance, guidance_channels, skip_tolerance, mask_noise)
