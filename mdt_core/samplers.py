"""Samplers: a table over diffusers' schedulers, and the one loop that runs them.

`sample` is a generator that yields every step, so that a browser, a batch job and a test share one path. It takes a
plain `denoise(x_t, t)` and does not know of models, labels or pictures. Inpainting enters by a hook on the state and by
the order of the steps.

Papers: DDPM (Ho et al. 2020, arXiv:2006.11239), iDDPM's learned variance (Nichol & Dhariwal 2021, arXiv:2102.09672),
DDIM (Song et al. 2020, arXiv:2010.02502), DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095). The schedulers' formulas are
diffusers'; the timesteps are the published ones. Noise is float32 and drawn on the CPU by one generator per image: it
depends neither on the device nor on the neighbours in the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from numbers import Integral

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from mdt_core.diffusion import BETA_END, BETA_START, NUM_TIMESTEPS, Diffusion

Denoise = Callable[[Tensor, int], Tensor]  # (x_t (N, C, H, W), t) -> (N, 2C, H, W), epsilon then variance channels
Hook = Callable[[Tensor, int | None], Tensor]  # (state after a step, its timestep; None: clean) -> state to go on with

BETAS = {"num_train_timesteps": NUM_TIMESTEPS, "beta_start": BETA_START, "beta_end": BETA_END}


@dataclass(frozen=True)
class Step:
    """One step of a trajectory."""

    index: int  # 0..total-1
    total: int  # number of steps
    timestep: int  # the original timestep at which the model was asked
    x_t: Tensor  # (N, C, H, W), the state after the step
    x_0: Tensor  # (N, C, H, W), the prediction made in it


@dataclass(frozen=True)
class Sampler:
    """A row of the table."""

    scheduler: Callable[[], SchedulerMixin]
    spacing: Callable[[int], list[int]]  # number of steps -> its own timesteps, from noise to clean
    default_steps: int
    max_steps: int
    stochastic: bool  # draws noise in every step, with the variance that the model predicts

    def make(self, timesteps: Sequence[int]) -> SchedulerMixin:
        """Its scheduler with these timesteps set."""
        scheduler = self.scheduler()
        scheduler.set_timesteps(timesteps=list(timesteps))
        return scheduler


def _published(num_inference_steps: int) -> list[int]:
    """Evenly from 999 to 0, both included, as published. A single step starts where the noise is."""
    if num_inference_steps == 1:
        return [NUM_TIMESTEPS - 1]
    return Diffusion.respaced(str(num_inference_steps)).timesteps.flip(0).tolist()


def _published_ddim(num_inference_steps: int) -> list[int]:
    """By whole strides down to 0, where such a stride gives as many steps."""
    if num_inference_steps == 1 or NUM_TIMESTEPS % num_inference_steps:
        return _published(num_inference_steps)
    return Diffusion.respaced(f"ddim{num_inference_steps}").timesteps.flip(0).tolist()


def _above_zero(num_inference_steps: int) -> list[int]:
    """Evenly from 999 to 0, the latter left out: a solver that ends at zero noise has nothing to do there."""
    ascending = np.linspace(0, NUM_TIMESTEPS - 1, num_inference_steps + 1).round().astype(int)
    return ascending[:0:-1].tolist()


# The published ancestral sampler; DDIM with eta 0, which is DPM-Solver++ of first order, for DDIMScheduler steps by
# 1000 // N, wrong for other N; DPM-Solver++ 2M, whose last step is of first order and ends at zero noise.
_DDPM = partial(DDPMScheduler, **BETAS, variance_type="learned_range", clip_sample=False)
_DDIM = partial(DPMSolverMultistepScheduler, **BETAS, solver_order=1)
_DPM = partial(DPMSolverMultistepScheduler, **BETAS, solver_order=2)

SAMPLERS = {
    "dpm++": Sampler(_DPM, _above_zero, default_steps=25, max_steps=250, stochastic=False),
    "ddim": Sampler(_DDIM, _published_ddim, default_steps=50, max_steps=250, stochastic=False),
    "ddpm": Sampler(_DDPM, _published, default_steps=250, max_steps=1000, stochastic=True),  # 250: the paper's setting
}


def find_sampler(sampler: str, num_inference_steps: int) -> Sampler:
    """The row of a sampler.

    Raises:
        ValueError: if there is no such sampler, or it does not take that many steps.
    """
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ValueError(f'no sampler is called "{sampler}": choose one of {", ".join(SAMPLERS)}')
    most = SAMPLERS[sampler].max_steps
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"{sampler} takes 1 to {most} steps, not {num_inference_steps}")
    return SAMPLERS[sampler]


def sampling_timesteps(sampler: str, num_inference_steps: int, first_timestep: int = NUM_TIMESTEPS - 1) -> list[int]:
    """The original timesteps at which the model is asked, from noise to clean.

    Args:
        sampler: a key of SAMPLERS.
        num_inference_steps: 1 to the sampler's `max_steps`.
        first_timestep: where they begin, 1..999; the sampler's own are brought closer together. At 900 hardly anything
            but noise is seen yet, and a few steps from there lie nearer to the picture than from 999.

    Raises:
        ValueError: as of `find_sampler`, or there is no such timestep to begin at.
    """
    own = find_sampler(sampler, num_inference_steps).spacing(num_inference_steps)
    noisiest = NUM_TIMESTEPS - 1
    whole = isinstance(first_timestep, Integral) and not isinstance(first_timestep, bool)
    if not whole or not 1 <= first_timestep <= noisiest:
        raise ValueError(f"first_timestep must be a whole number from 1 to {noisiest}, not {first_timestep!r}")
    if first_timestep == noisiest:
        return own
    closer = np.round(np.array(own) * first_timestep / own[0]).astype(int)
    # Where they are too many, each takes the next one up.
    left = np.arange(len(own))[::-1]  # steps to come after each
    return (np.maximum.accumulate((closer - left)[::-1])[::-1] + left).tolist()


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image.

    Raises:
        ValueError: if a seed is negative or has more than 63 bits.
    """
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"a seed must be a whole number from 0 to 2**63 - 1, not {seed}")
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def initial_latents(generators: list[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Pure noise to start from, (N, *shape), float32 on the CPU: one image of `shape` (C, H, W) from each generator."""
    return randn_tensor((len(generators), *shape), generator=generators, dtype=torch.float32)


@torch.no_grad()
def sample(
    denoise: Denoise,
    latents: Tensor,
    *,
    sampler: str = "dpm++",
    num_inference_steps: int = 25,
    first_timestep: int = NUM_TIMESTEPS - 1,
    generators: list[torch.Generator] | None = None,
    hook: Hook | None = None,
    order: Sequence[int] | None = None,
) -> Iterator[Step]:
    """Denoise latents step by step.

    Args:
        denoise: the model with labels and guidance bound, `denoise(x_t, t) -> (N, 2C, H, W)`.
        latents: (N, C, H, W), noised to the first timestep of the order; pure noise when it starts at 0.
        sampler: a key of SAMPLERS.
        num_inference_steps: 1 to the sampler's `max_steps`.
        first_timestep: where the steps begin, see `sampling_timesteps`.
        generators: one per image, for the noise of "ddpm" and of jumps back.
        hook: called as `hook(state, timestep)` after every step, with the state and the timestep whose noise level it
            now has, None when it is clean; what it returns is the state from there on.
        order: positions in the schedule, in the order to run them. A later start, `range(10, 25)`, leaves out the
            noisiest steps; a position again, `[0, 1, 2, 1, 2, 3, ...]`, jumps back by adding noise (RePaint,
            arXiv:2201.09865) and a multistep solver then starts anew at first order. It ends with the last position.

    Yields:
        A `Step` for each position of the order. The last one's x_t is the clean sample.

    Raises:
        ValueError: at the first step, if an argument is out of its range.
    """
    row = find_sampler(sampler, num_inference_steps)
    order = range(num_inference_steps) if order is None else order
    jumps = _count_jumps(order, num_inference_steps)
    if (row.stochastic or jumps) and (generators is None or len(generators) != len(latents)):
        raise ValueError(f"{sampler} draws noise here: pass one generator per image, {len(latents)} of them")

    diffusion, timesteps = Diffusion(), sampling_timesteps(sampler, num_inference_steps, first_timestep)
    scheduler = row.make(timesteps)
    levels = [*timesteps, None]  # of the states before, between and after the steps
    x_t, at = latents.float(), order[0]  # at: the position that the state is ready for
    for index, i in enumerate(order):
        t = timesteps[i]
        if i < at:
            x_t = diffusion.diffuse(x_t, noise_like(x_t, generators), levels[at], t)
            scheduler = row.make(timesteps)
        output = denoise(x_t, t).float()
        epsilon = output[:, : x_t.shape[1]]
        x_0 = diffusion.predict_x0(x_t, torch.full((len(x_t),), t, device=x_t.device), epsilon)
        x_t = scheduler.step(output if row.stochastic else epsilon, t, x_t, generator=generators, return_dict=False)[0]
        at = i + 1
        if levels[at] is None:
            x_t = x_0  # as every sampler ends; DDPMScheduler would add noise where the last t is not 0
        if hook is not None:
            x_t = hook(x_t, levels[at])
        yield Step(index, len(order), t, x_t, x_0)


def _count_jumps(order: Sequence[int], num_inference_steps: int) -> int:
    """How often the order goes back; ValueError if it leaves a step out on the way, or does not end at the last one."""
    positions = range(num_inference_steps)
    gaps = [b - a for a, b in pairwise(order)]
    if not order or order[-1] != positions[-1] or any(i not in positions for i in order) or max(gaps, default=1) > 1:
        raise ValueError(f"the order of steps must go up one by one within 0..{positions[-1]} and end there")
    return sum(gap < 1 for gap in gaps)


def noise_like(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Noise for a batch (N, C, H, W), one image from each generator."""
    return randn_tensor(x.shape, generator=generators, device=x.device, dtype=x.dtype)
