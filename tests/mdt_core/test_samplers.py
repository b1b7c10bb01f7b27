"""Each sampler on Gaussian data, where its whole trajectory is known, and the loop's promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from mdt_core.diffusion import Diffusion
from mdt_core.samplers import SAMPLERS, generators, initial_latents, sample, sampling_timesteps
from tests.helpers.analytic import ALPHA_BAR, GaussianDenoiser

MEAN, STD = 0.7, 0.5


def run(sampler, steps, latents, **settings):
    return list(sample(GaussianDenoiser(MEAN, STD), latents, sampler=sampler, num_inference_steps=steps, **settings))


def noise(n=2, side=4):
    return initial_latents(generators(range(n)), (4, side, side))


def predict(x, a):
    """x_0 and epsilon of the exact denoiser at alpha-bar a, for a number or an array."""
    epsilon = (x - math.sqrt(a) * MEAN) * math.sqrt(1 - a) / (a * STD**2 + 1 - a)
    return (x - math.sqrt(1 - a) * epsilon) / math.sqrt(a), epsilon


# DDIM (12) with sigma = 0
def ddim_by_hand(x, timesteps):
    levels = [*ALPHA_BAR[timesteps], 1.0]
    for a, a_next in pairwise(levels):
        x_0, epsilon = predict(x, a)
        x = math.sqrt(a_next) * x_0 + math.sqrt(1 - a_next) * epsilon
    return x


# DPM-Solver++ algorithm 2; first order at both ends
def dpm_2m_by_hand(x, timesteps):
    lambdas = [0.5 * math.log(a / (1 - a)) for a in ALPHA_BAR[timesteps]]
    before = None
    for i, t in enumerate(timesteps[:-1]):
        a, a_next, h = ALPHA_BAR[t], ALPHA_BAR[timesteps[i + 1]], lambdas[i + 1] - lambdas[i]
        x_0, _ = predict(x, a)
        d = x_0
        if before is not None:
            r = (lambdas[i] - lambdas[i - 1]) / h
            d = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before
        x = math.sqrt((1 - a_next) / (1 - a)) * x - math.sqrt(a_next) * math.expm1(-h) * d
        before = x_0
    return predict(x, ALPHA_BAR[timesteps[-1]])[0]


@pytest.mark.parametrize("steps", [2, 10, 30, 50, 77])
def test_ddim_is_its_formula(steps):
    """Also where N does not divide 1000: catches steps of 1000 // N, which leave a rest."""
    x = noise()
    expected = ddim_by_hand(x.double(), sampling_timesteps("ddim", steps))
    assert torch.allclose(run("ddim", steps, x)[-1].x_t, expected.float(), atol=2e-4)


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_agrees_with_diffusers_where_that_is_exact(steps):
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    scheduler.set_timesteps(steps)
    x, denoise = noise(), GaussianDenoiser(MEAN, STD)
    ours = run("ddim", steps, x)
    for step, t in zip(ours, scheduler.timesteps.tolist(), strict=True):
        assert step.timestep == t
        x = scheduler.step(denoise(x, t)[:, :4], t, x).prev_sample
        assert torch.allclose(step.x_t, x, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_dpm_is_its_algorithm(steps):
    """Catches first order all the way, a wrong ratio of steps, or the last step not ending at zero noise."""
    x = noise()
    expected = dpm_2m_by_hand(x.double(), sampling_timesteps("dpm++", steps))
    assert torch.allclose(run("dpm++", steps, x)[-1].x_t, expected.float(), atol=2e-4)


@pytest.mark.parametrize(
    ("sampler", "steps", "error"), [("dpm++", 25, 0.02), ("dpm++", 250, 2e-3), ("ddim", 250, 0.02)]
)
def test_deterministic_samplers_solve_the_probability_flow(sampler, steps, error):
    """The flow carries quantiles: x_0 = mean + std * (x_T's own normal score). Second order gets there sooner."""
    x = noise()
    a = ALPHA_BAR[999]
    exact = MEAN + STD * (x - math.sqrt(a) * MEAN) / math.sqrt(a * STD**2 + 1 - a)
    assert (run(sampler, steps, x)[-1].x_t - exact).abs().max() < error * 3


@pytest.mark.parametrize("v", [-1.0, 0.5])
def test_ddpm_has_the_published_chains_moments(v):
    """The chain is linear with Gaussian noise, so its mean and variance follow exactly; catches noise of another size.

    100 steps of 4 x 64 x 64 elements; the tolerance is five standard errors.
    """
    process = Diffusion.respaced("100")
    mean, variance = 0.0, 1.0
    for i in reversed(range(100)):
        a, beta = process.alphas_cumprod[i].item(), process.betas[i].item()
        previous = process.alphas_cumprod[i - 1].item() if i else 1.0
        # x_{t-1} = c_0 x_0(x_t) + c_t x_t + noise, with x_0(x) = predict(0) + slope x
        c_0, c_t = math.sqrt(previous) * beta / (1 - a), math.sqrt(1 - beta) * (1 - previous) / (1 - a)
        offset, _ = predict(0.0, a)
        slope = predict(1.0, a)[0] - offset
        mean, variance = c_0 * offset + (c_0 * slope + c_t) * mean, (c_0 * slope + c_t) ** 2 * variance
        if i:
            low, high = math.log(beta * (1 - previous) / (1 - a)), math.log(beta)
            variance += math.exp((1 + v) / 2 * high + (1 - v) / 2 * low)
    rngs = generators([0])
    x = initial_latents(rngs, (4, 64, 64))
    *_, last = sample(GaussianDenoiser(MEAN, STD, v), x, sampler="ddpm", num_inference_steps=100, generators=rngs)
    n = x.numel()
    assert last.x_t.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert last.x_t.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_ddpm_steps_are_the_published_reverse_steps():
    """Step by step against our own reverse_step with the same noise: catches a wrong spacing or a clipped x_0."""
    process, denoise, x = Diffusion.respaced("20"), GaussianDenoiser(MEAN, STD, v=0.3), 3 * noise(n=1)
    rng = generators([5])[0]
    for step in run_ddpm(denoise, x):
        mean, _, log_variance, x_0 = process.reverse_step(denoise(x, step.timestep), x, torch.tensor([step.timestep]))
        assert torch.allclose(step.x_0, x_0, atol=1e-4)
        if step.timestep:
            mean = mean + (0.5 * log_variance).exp() * torch.randn(x.shape, generator=rng)
        assert torch.allclose(step.x_t, mean, atol=1e-4)
        x = step.x_t


def run_ddpm(denoise, x):
    return sample(denoise, x, sampler="ddpm", num_inference_steps=20, generators=generators([5]))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 25, 250])
def test_every_number_of_steps_ends_clean(sampler, steps):
    """Catches one step that starts at t = 0, noise added by the last step, and a duplicate timestep."""
    rngs = generators([0, 1])
    denoise = GaussianDenoiser(MEAN, STD)
    steps_made = list(
        sample(denoise, initial_latents(rngs, (4, 8, 8)), sampler=sampler, num_inference_steps=steps, generators=rngs)
    )
    assert [s.index for s in steps_made] == list(range(steps))
    assert {s.total for s in steps_made} == {steps}
    assert denoise.asked == [s.timestep for s in steps_made] == sampling_timesteps(sampler, steps)
    assert denoise.asked == sorted(set(denoise.asked), reverse=True)
    assert torch.equal(steps_made[-1].x_t, steps_made[-1].x_0)
    assert steps_made[-1].x_t.mean().item() == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize("steps", [*range(1, 31), 46, 250])
def test_even_steps_of_dpm_are_those_of_diffusers(steps):
    """Catches a tie that is rounded the other way, 26 steps for example: such pictures would come out otherwise."""
    scheduler = DPMSolverMultistepScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    assert sampling_timesteps("dpm++", steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("first", [1, 200, 850, 998])
def test_timesteps_begin_where_asked(sampler, first):
    """The sampler's own, brought closer together; each but once, also where more are asked for than there are."""
    own, few = sampling_timesteps(sampler, 5), sampling_timesteps(sampler, 5, first)
    assert first < 5 or np.allclose(few, np.array(own) * first / own[0], atol=0.51)
    many = sampling_timesteps(sampler, 250, first)
    assert len(many) == 250 and many == sorted(set(many), reverse=True)
    assert many[-1] >= 0 and many[0] in (first, 249, 250)


@pytest.mark.parametrize(("sampler", "by_hand"), [("ddim", ddim_by_hand), ("dpm++", dpm_2m_by_hand)])
def test_the_formulas_hold_from_a_later_timestep_on(sampler, by_hand):
    """Catches a scheduler that keeps the noise levels of its own steps."""
    x, timesteps = noise(), sampling_timesteps(sampler, 6, 850)
    steps = run(sampler, 6, x, first_timestep=850)
    assert [step.timestep for step in steps] == timesteps != sampling_timesteps(sampler, 6)
    assert torch.allclose(steps[-1].x_t, by_hand(x.double(), timesteps).float(), atol=2e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_depends_on_its_seed_alone(sampler):
    """Alone, in a batch of 8 and beside other seeds: bit for bit. Catches noise drawn for the whole batch."""

    def image(seeds, which):
        rngs = generators(seeds)
        x = initial_latents(rngs, (4, 8, 8))
        *_, last = sample(
            GaussianDenoiser(MEAN, STD, v=0.0), x, sampler=sampler, num_inference_steps=5, generators=rngs
        )
        return last.x_t[which]

    alone = image([7], 0)
    assert torch.equal(alone, image(range(8), 7))
    assert torch.equal(alone, image([1000, 7, 3], 1))
    assert not torch.equal(alone, image([8], 0))


def test_a_late_start_leaves_out_the_noisy_steps():
    timesteps = sampling_timesteps("dpm++", 20)
    steps = run("dpm++", 20, noise(), order=range(12, 20))
    assert [s.timestep for s in steps] == timesteps[12:]
    assert [(s.index, s.total) for s in steps] == [(i, 8) for i in range(8)]


def test_a_multistep_solver_starts_anew_after_a_jump():
    """Catches differences taken across a jump, between predictions that do not belong to one trajectory."""
    x = noise()
    timesteps = sampling_timesteps("dpm++", 10)
    jumped = run("dpm++", 10, x, order=[3, 4, 4, 5, 6, 7, 8, 9], generators=generators([1, 2]))
    more_noise = initial_latents(generators([1, 2]), (4, 4, 4))
    renoised = Diffusion().diffuse(jumped[1].x_t, more_noise, timesteps[5], timesteps[4])
    again = run("dpm++", 10, renoised, order=range(4, 10))
    assert torch.equal(jumped[-1].x_t, again[-1].x_t)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_jumps_keep_the_distribution(sampler):
    """With the exact score resampling changes nothing but the draw: catches a jump to the wrong level."""
    rngs = generators(range(4))
    x = initial_latents(rngs, (4, 32, 32))
    order = [*range(40), *range(20, 45), *range(30, 50)]
    denoise = GaussianDenoiser(MEAN, STD)
    steps = list(sample(denoise, x, sampler=sampler, num_inference_steps=50, generators=rngs, order=order))
    timesteps = sampling_timesteps(sampler, 50)
    assert denoise.asked == [timesteps[i] for i in order]
    assert steps[-1].x_t.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert steps[-1].x_t.std().item() == pytest.approx(STD, abs=0.07)  # 0.056 is ddpm's own error at 50 steps


def test_the_hook_gets_the_level_after_the_step():
    """The public off-by-one of inpainting code: the state after a step has the next timestep's noise, not its own."""
    seen = []

    def hook(x, level):
        seen.append(level)
        return torch.zeros_like(x)

    steps = run("ddim", 5, noise(), hook=hook)
    assert seen == [*sampling_timesteps("ddim", 5)[1:], None]
    assert all(s.x_t.abs().max() == 0 for s in steps)  # what the hook returns is the state
    assert steps[1].x_0.unique().numel() == 1  # and the model sees it: equal inputs, equal answers


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "euler"}, "euler.*dpm"),
        ({"sampler": "dpm++", "num_inference_steps": 0}, "1 to 250"),
        ({"sampler": "ddim", "num_inference_steps": 251}, "1 to 250"),
        ({"sampler": "ddpm"}, "one generator per image"),
        ({"sampler": "ddpm", "generators": generators([0])}, "2 of them"),
        ({"num_inference_steps": 5, "order": [0, 2, 3, 4]}, "order"),
        ({"num_inference_steps": 5, "order": [3]}, "order"),
        ({"num_inference_steps": 5, "order": []}, "order"),
        ({"num_inference_steps": 5, "order": [-1, 0, 1, 2, 3, 4]}, "order"),
        ({"num_inference_steps": 5, "order": [3, 3, 4]}, "one generator per image"),
    ],
)
def test_bad_arguments_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        next(sample(GaussianDenoiser(), noise(), **settings))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        generators([0, seed])
