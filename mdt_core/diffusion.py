"""The diffusion process: all of the schedule's maths, in one place.

Papers: DDPM (Ho et al. 2020, arXiv:2006.11239), iDDPM (Nichol & Dhariwal 2021, arXiv:2102.09672) for respacing and the
learned-range variance, min-SNR (Hang et al. 2023, arXiv:2303.09556) for the weight of the epsilon loss.

The process is the one that MDT was published with: 1000 steps, betas linear from 1e-4 to 0.02. A respaced process keeps
some of those steps and is asked about them by their original number, because that is what the model is always given.
Schedules are computed in float64 and used in float32.

Shapes: x_0, x_t, noise, epsilon, v are (N, C, H, W); model_output is (N, 2C, H, W), epsilon channels then variance
channels; timesteps is (N,), int64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, repeat
from typing import NamedTuple

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02


class Gaussian(NamedTuple):
    """A normal distribution of x_{t-1}; the variances broadcast against the mean."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t) as the model sees it, and the x_0 that it predicts on the way; all (N, C, H, W)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    x_0: Tensor


class Schedule(NamedTuple):
    """Everything that depends on the step alone, one entry per kept step, in ascending order of time."""

    betas: Tensor
    log_betas: Tensor
    alphas_cumprod: Tensor
    noise_variance: Tensor  # 1 - alphas_cumprod, which float32 could not tell from the latter near the data
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    x_0_coefficient: Tensor  # of the posterior mean
    x_t_coefficient: Tensor  # of the posterior mean


@dataclass(frozen=True)
class Diffusion:
    """The full process, `Diffusion()`, or a part of its steps, `Diffusion.respaced("250")`.

    Every argument named `timesteps` holds original timesteps, 0..999, and each of them must be one that is kept.

    Raises:
        ValueError: if the kept timesteps do not ascend within 0..999, or are fewer than two.
    """

    kept: tuple[int, ...] = tuple(range(NUM_TIMESTEPS))  # original timesteps, ascending

    def __post_init__(self):
        ascending = all(a < b for a, b in zip(self.kept, self.kept[1:], strict=False))
        if len(self.kept) < 2 or not ascending or self.kept[0] < 0 or self.kept[-1] >= NUM_TIMESTEPS:
            raise ValueError(f"kept timesteps must be two or more, ascending, within 0..{NUM_TIMESTEPS - 1}")

    @classmethod
    def respaced(cls, respacing: str | Sequence[int]) -> "Diffusion":
        """Keep some of the steps (iDDPM, section 4).

        Args:
            respacing: "250" keeps 250 steps spread evenly from 0 to 999, both included; "ddim25" keeps every 40th from
                0; a sequence names the timesteps themselves.

        Raises:
            ValueError: if the respacing is of another form, or no whole stride gives as many steps.
        """
        if not isinstance(respacing, str):
            return cls(tuple(sorted(int(t) for t in respacing)))
        count = respacing.removeprefix("ddim")
        if not count.isdecimal() or not 2 <= int(count) <= NUM_TIMESTEPS:
            raise ValueError(f'respacing is "N" or "ddimN" with N from 2 to {NUM_TIMESTEPS}, not "{respacing}"')
        n = int(count)
        if respacing.startswith("ddim"):
            kept = range(0, NUM_TIMESTEPS, math.ceil(NUM_TIMESTEPS / n))
            if len(kept) != n:
                raise ValueError(f'no whole stride through {NUM_TIMESTEPS} steps takes {n} of them: try "{n}"')
            return cls(tuple(kept))
        # Added up stride by stride, as published: at a tie (N = 21, the tenth) the accumulated error decides.
        strides = accumulate(repeat((NUM_TIMESTEPS - 1) / (n - 1), n - 1), initial=0.0)
        return cls(tuple(round(t) for t in strides))

    @cached_property
    def timesteps(self) -> Tensor:
        """The kept original timesteps, ascending, int64."""
        return torch.tensor(self.kept)

    @property
    def betas(self) -> Tensor:
        """beta_t of the kept steps, float64."""
        return _schedule(self.kept).betas

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha-bar_t of the kept steps, float64."""
        return _schedule(self.kept).alphas_cumprod

    # DDPM (4)
    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """q(x_t | x_0): the sample at `timesteps` that `noise` leads to."""
        alpha_bar = self._at("alphas_cumprod", timesteps, x_0)
        return alpha_bar.sqrt() * x_0 + self._at("noise_variance", timesteps, x_0).sqrt() * noise

    # DDPM (2), the steps between taken at once
    def diffuse(self, x_s: Tensor, noise: Tensor, start: int | None, end: int) -> Tensor:
        """q(x_end | x_start): more noise for a sample that is at timestep `start` (None: clean), one level for all."""
        alpha = self._at("alphas_cumprod", torch.tensor([end], device=x_s.device), x_s)
        if start is not None:
            alpha = alpha / self._at("alphas_cumprod", torch.tensor([start], device=x_s.device), x_s)
        return alpha.sqrt() * x_s + (1 - alpha).sqrt() * noise

    # DDPM (4), solved for x_0
    def predict_x0(self, x_t: Tensor, timesteps: Tensor, epsilon: Tensor) -> Tensor:
        """The x_0 that `epsilon` implies. It is not clipped: latents have no fixed range."""
        noise = self._at("noise_variance", timesteps, x_t).sqrt() * epsilon
        return (x_t - noise) / self._at("alphas_cumprod", timesteps, x_t).sqrt()

    # DDPM (6), (7)
    def posterior(self, x_0: Tensor, x_t: Tensor, timesteps: Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x_0). The variance at the first step is 0; its logarithm there is the second step's."""
        x_0_coefficient = self._at("x_0_coefficient", timesteps, x_t)
        x_t_coefficient = self._at("x_t_coefficient", timesteps, x_t)
        return Gaussian(
            mean=x_0_coefficient * x_0 + x_t_coefficient * x_t,
            variance=self._at("posterior_variance", timesteps, x_t),
            log_variance=self._at("posterior_log_variance", timesteps, x_t),
        )

    # iDDPM (15), with v from [-1, 1] to [0, 1]
    def learned_range_log_variance(self, v: Tensor, timesteps: Tensor) -> Tensor:
        """The variance between its two extremes, the posterior's (v = -1) and beta_t (v = 1), in logarithms."""
        low, high = (self._at(name, timesteps, v) for name in ("posterior_log_variance", "log_betas"))
        return low + (v + 1) / 2 * (high - low)

    # DDPM (11), with iDDPM's variance
    def reverse_step(self, model_output: Tensor, x_t: Tensor, timesteps: Tensor) -> ReverseStep:
        """p(x_{t-1} | x_t): the posterior with the predicted x_0 in the place of the true one."""
        epsilon, v = model_output.chunk(2, dim=1)
        x_0 = self.predict_x0(x_t, timesteps, epsilon)
        log_variance = self.learned_range_log_variance(v, timesteps)
        return ReverseStep(self.posterior(x_0, x_t, timesteps).mean, log_variance.exp(), log_variance, x_0)

    # iDDPM (4)-(6), one term of the bound per sample
    def variational_bound(self, model_output: Tensor, x_0: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The variational term of one step, (N,), in bits per element.

        The KL divergence between posterior and prediction; at the first step the negative log-likelihood of x_0.
        Epsilon is detached: the term teaches the variance alone (iDDPM, section 3.1).
        """
        epsilon, v = model_output.chunk(2, dim=1)
        prediction = self.reverse_step(torch.cat([epsilon.detach(), v], dim=1), x_t, timesteps)
        posterior = self.posterior(x_0, x_t, timesteps)
        kl = normal_kl(posterior.mean, posterior.log_variance, prediction.mean, prediction.log_variance)
        nll = -discretised_log_likelihood(x_0, prediction.mean, prediction.log_variance)
        first = timesteps == self.kept[0]
        return torch.where(first, nll.flatten(1).mean(1), kl.flatten(1).mean(1)) / math.log(2)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha-bar / (1 - alpha-bar), (N,)."""
        return self._at("alphas_cumprod", timesteps) / self._at("noise_variance", timesteps)

    # min-SNR, section 3.4: min(SNR, gamma) / SNR where the network predicts epsilon
    def min_snr_weight(self, timesteps: Tensor, gamma: float = 5.0) -> Tensor:
        """Weight of the epsilon MSE, (N,), in (0, 1]: small where there is hardly any noise."""
        snr = self.snr(timesteps)
        return snr.clamp(max=gamma) / snr

    def noise_weight(self, timesteps: Tensor, power: float) -> Tensor:
        """SNR^-power where there is more noise than signal, 1 elsewhere, (N,): it rises up to an SNR of 1/900."""
        return self.snr(timesteps).clamp(1 / 900, 1) ** -power

    def _at(self, name: str, timesteps: Tensor, like: Tensor | None = None) -> Tensor:
        """One float32 entry of the schedule per sample, (N,), or shaped to broadcast against `like`."""
        values = getattr(_schedule(self.kept, timesteps.device, torch.float32), name)[self._index(timesteps)]
        return values if like is None else values.reshape(-1, *[1] * (like.ndim - 1))

    def _index(self, timesteps: Tensor) -> Tensor:
        """Original timesteps -> positions among the kept ones."""
        if len(self.kept) == NUM_TIMESTEPS:
            return timesteps
        kept = self.timesteps.to(timesteps.device)
        index = torch.searchsorted(kept, timesteps).clamp(max=len(kept) - 1)
        if not torch.equal(kept[index], timesteps):
            raise ValueError(f"timesteps {timesteps.tolist()} are not all kept by this respacing")
        return index


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) of each element, in nats."""
    log_ratio = log_variance2 - log_variance1
    return 0.5 * (log_ratio - 1 + (-log_ratio).exp() + (mean1 - mean2) ** 2 * (-log_variance2).exp())


# DDPM (13), with tanh for the error function
def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-likelihood of each element, in nats, under a Gaussian in bins of 2/255 on [-1, 1] with open outer bins.

    Made for 8-bit pixels; MDT was published with it on latents, many of which lie outside that range.
    """
    half_bin, smallest = 1 / 255, 1e-12
    centred, inverse_std = x - mean, (-0.5 * log_variance).exp()
    below_upper = _normal_cdf(inverse_std * (centred + half_bin))
    below_lower = _normal_cdf(inverse_std * (centred - half_bin))
    probability = below_upper - below_lower
    probability = torch.where(x < -0.999, below_upper, torch.where(x > 0.999, 1 - below_lower, probability))
    return probability.clamp(min=smallest).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@cache
def _schedule(kept: tuple[int, ...], device: torch.device | None = None, dtype=torch.float64) -> Schedule:
    """The schedule of the kept steps, computed once per device."""
    alphas_cumprod = (1 - torch.linspace(BETA_START, BETA_END, NUM_TIMESTEPS, dtype=torch.float64)).cumprod(0)
    alphas_cumprod = alphas_cumprod[list(kept)]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    # iDDPM (19): the betas that lead through the kept cumulative products
    alphas = alphas_cumprod / previous
    betas = 1 - alphas
    posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
    schedule = Schedule(
        betas=betas,
        log_betas=betas.log(),
        alphas_cumprod=alphas_cumprod,
        noise_variance=1 - alphas_cumprod,
        posterior_variance=posterior_variance,
        posterior_log_variance=torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log(),
        x_0_coefficient=betas * previous.sqrt() / (1 - alphas_cumprod),
        x_t_coefficient=(1 - previous) * alphas.sqrt() / (1 - alphas_cumprod),
    )
    return Schedule(*(table.to(device, dtype) for table in schedule))
