"""A denoiser whose answer is known: the exact score of independent Gaussian data."""

import math

import numpy as np
import torch

# The schedule once more, from its definition, so that the tests do not lean on the code that they test.
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


class GaussianDenoiser:
    """`denoise(x_t, t)` for data whose elements are N(mean, std^2), with v for the learned-range variance.

    x_t is N(sqrt(a) mean, a std^2 + 1 - a), a = alpha-bar; epsilon is -sqrt(1 - a) times its score. `mean` and `std`
    may be tensors that broadcast against x_t.
    """

    def __init__(self, mean=0.7, std=0.5, v: float = -1.0):
        self.mean, self.std, self.v = mean, std, v
        self.asked: list[int] = []  # the timesteps, in order

    def __call__(self, x_t: torch.Tensor, t: int) -> torch.Tensor:
        self.asked.append(t)
        a = ALPHA_BAR[t]
        epsilon = (x_t - math.sqrt(a) * self.mean) * math.sqrt(1 - a) / (a * self.std**2 + 1 - a)
        return torch.cat([epsilon, torch.full_like(epsilon, self.v)], dim=1)
