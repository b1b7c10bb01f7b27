"""The schedule's maths against Bayes' rule, torch's distributions and diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from mdt_core.diffusion import Diffusion, discretised_log_likelihood, normal_kl
from mdt_core.losses import training_terms
from tests.helpers.analytic import ALPHA_BAR


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_schedule_is_the_published_one():
    """Catches another number of steps, other betas, or a product that starts one step late."""
    assert torch.allclose(Diffusion().alphas_cumprod, torch.from_numpy(ALPHA_BAR), rtol=1e-12, atol=0)
    assert Diffusion().betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])


@pytest.mark.parametrize(
    ("respacing", "first", "last", "count"),
    [("250", [0, 4, 8], 999, 250), ("10", [0, 111, 222], 999, 10), ("ddim25", [0, 40, 80], 960, 25)],
)
def test_respacing_keeps_the_published_timesteps(respacing, first, last, count):
    """Catches "ddimN" spread like "N", or the last step left out."""
    timesteps = Diffusion.respaced(respacing).timesteps.tolist()
    assert (timesteps[:3], timesteps[-1], len(timesteps)) == (first, last, count)


def test_respacing_breaks_ties_as_published():
    """The tenth of 21 steps is at 499.5: added up stride by stride it comes out below, multiplied it would be 500."""
    assert Diffusion.respaced("21").kept[10] == 499


@pytest.mark.parametrize("respacing", ["250", "ddim25", [3, 500, 77]])
def test_respaced_process_has_the_same_marginals(respacing):
    """Catches kept betas used as they are, in place of those that lead through the kept cumulative products."""
    process = Diffusion.respaced(respacing)
    assert torch.allclose((1 - process.betas).cumprod(0), Diffusion().alphas_cumprod[process.timesteps], rtol=1e-12)


@pytest.mark.parametrize(
    "respacing", ["", "0", "1", "1001", "ddim", "ddim999", "ddpm25", "2.5", [5], [1, 1], [0, 1000]]
)
def test_impossible_respacing_is_refused(respacing):
    with pytest.raises(ValueError, match=r"respacing|timesteps|stride"):
        Diffusion.respaced(respacing)


def test_a_timestep_that_is_not_kept_is_refused():
    """Catches a look-up that silently takes the neighbour's variance."""
    with pytest.raises(ValueError, match="kept"):
        Diffusion.respaced("10").snr(torch.tensor([111, 112]))


def test_add_noise_agrees_with_diffusers():
    x_0, noise, timesteps = randn(4, 3, 2, 2), randn(4, 3, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02).add_noise(x_0, noise, timesteps)
    assert torch.allclose(Diffusion().add_noise(x_0, noise, timesteps), theirs, atol=1e-5)


def test_predict_x0_undoes_add_noise():
    x_0, noise, timesteps = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1), torch.tensor([0, 300, 900])
    x_t = Diffusion().add_noise(x_0, noise, timesteps)
    assert torch.allclose(Diffusion().predict_x0(x_t, timesteps, noise), x_0, atol=1e-3)


@pytest.mark.parametrize("start", [None, 200])
def test_diffuse_has_the_marginal_of_its_end(start):
    """Noise added in two goes must have the moments of one go; catches alpha-bar of the end taken for the ratio."""
    process, noise, x_0 = Diffusion(), randn(2, 1, 200, 200), torch.full((1, 1, 200, 200), 2.0)
    x = x_0 if start is None else process.add_noise(x_0, noise[:1], torch.tensor([start]))
    x = process.diffuse(x, noise[1:], start, 400)
    a = ALPHA_BAR[400]
    assert x.mean().item() == pytest.approx(2 * math.sqrt(a), abs=0.02)
    assert x.std().item() == pytest.approx(math.sqrt(1 - a), abs=0.02)


@pytest.mark.parametrize("process", [Diffusion(), Diffusion.respaced("10")])
def test_posterior_is_bayes_rule(process):
    """q(x_{t-1} | x_t, x_0) from the precisions of its two factors; catches a coefficient or an index off by one."""
    i = 4
    beta, previous = process.betas[i], process.alphas_cumprod[i - 1]
    x_0, x_t = randn(1, 2, 3, 3).double(), randn(1, 2, 3, 3, seed=1).double()
    # x_t given x_{t-1}: N(sqrt(1 - beta) x_{t-1}, beta); x_{t-1} given x_0: N(sqrt(previous) x_0, 1 - previous)
    precision = (1 - beta) / beta + 1 / (1 - previous)
    mean = ((1 - beta).sqrt() * x_t / beta + previous.sqrt() * x_0 / (1 - previous)) / precision
    posterior = process.posterior(x_0, x_t, process.timesteps[[i]])
    assert torch.allclose(posterior.mean, mean, atol=1e-5)
    assert posterior.variance.item() == pytest.approx(1 / precision.item(), rel=1e-5)
    assert posterior.log_variance.item() == pytest.approx(-math.log(precision), rel=1e-5)


def test_first_posterior_log_variance_is_the_second_ones():
    """The first variance is 0: its logarithm has to come from the next step, or it is minus infinity."""
    process = Diffusion()
    log_variance = process.posterior(*[torch.zeros(2, 1, 1, 1)] * 2, torch.tensor([0, 1])).log_variance
    assert log_variance[0] == log_variance[1]
    assert process.posterior(*[torch.zeros(1, 1, 1, 1)] * 2, torch.tensor([0])).variance == 0


@pytest.mark.parametrize("t", [0, 1, 500])
def test_learned_range_goes_from_posterior_to_beta(t):
    """Catches v taken as [0, 1] or the two ends exchanged."""
    process, timesteps = Diffusion(), torch.tensor([t])
    low, middle, high = (
        process.learned_range_log_variance(torch.full((1, 1, 1, 1), v), timesteps) for v in (-1.0, 0.0, 1.0)
    )
    assert high.item() == pytest.approx(process.betas[t].log().item(), rel=1e-6)
    assert low == process.posterior(low, low, timesteps).log_variance
    assert middle.item() == pytest.approx((low + high).item() / 2, rel=1e-6)


def test_kl_agrees_with_torch():
    mean1, log1, mean2, log2 = randn(4, 50)
    first, second = (torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((mean1, log1), (mean2, log2)))
    assert torch.allclose(
        normal_kl(mean1, log1, mean2, log2), torch.distributions.kl_divergence(first, second), atol=1e-4, rtol=1e-4
    )


def test_discretised_likelihood_is_a_distribution_over_256_bins():
    """The bins sum to 1 and are near the exact ones; catches open ends exchanged or half a bin lost."""
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean, log_variance = torch.full_like(bins, 0.9), torch.full_like(bins, math.log(0.04))
    probability = discretised_log_likelihood(bins, mean, log_variance).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    normal = torch.distributions.Normal(mean, 0.2)
    edges = torch.cat([torch.tensor([-math.inf]), (bins[1:] + bins[:-1]) / 2, torch.tensor([math.inf])]).double()
    exact = torch.special.ndtr((edges[1:] - mean) / normal.stddev) - torch.special.ndtr(
        (edges[:-1] - mean) / normal.stddev
    )
    assert torch.allclose(probability, exact, atol=2e-4)  # tanh is not quite erf


def test_variational_term_is_zero_for_the_true_posterior():
    """With the true noise and v = -1 prediction and posterior agree; catches a term that is not a divergence."""
    process, x_0, noise, timesteps = Diffusion(), randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), torch.tensor([5, 700])
    x_t = process.add_noise(x_0, noise, timesteps)
    bits = process.variational_bound(torch.cat([noise, -torch.ones_like(noise)], 1), x_0, x_t, timesteps)
    assert bits.abs().max() < 1e-4


def test_variational_term_teaches_the_variance_alone():
    """Catches the attached epsilon, which would let the noisy bound pull on the mean."""
    process, x, timesteps = Diffusion(), randn(3, 1, 4, 4), torch.tensor([0, 5, 700])
    output = randn(3, 2, 4, 4, seed=1).requires_grad_()
    process.variational_bound(output, x, x, timesteps).sum().backward()
    epsilon, v = output.grad.chunk(2, dim=1)
    assert epsilon.abs().max() == 0
    assert v.flatten(1).abs().amax(1).min() > 0


def test_first_variational_term_is_a_likelihood():
    """At t = 0 the bound is the discretised likelihood, elsewhere the divergence: catches a wrong branch."""
    process, x_0, noise, timesteps = Diffusion(), randn(2, 1, 4, 4) / 3, randn(2, 1, 4, 4, seed=1), torch.tensor([0, 1])
    x_t = process.add_noise(x_0, noise, timesteps)
    output = torch.cat([noise, torch.zeros_like(noise)], dim=1)
    mean, _, log_variance, _ = process.reverse_step(output, x_t, timesteps)
    first, second = process.variational_bound(output, x_0, x_t, timesteps)
    nll = -discretised_log_likelihood(x_0, mean, log_variance)[0].mean() / math.log(2)
    assert first.item() == pytest.approx(nll.item(), rel=1e-5)
    assert 0 < second < first


def test_min_snr_weight():
    """min(snr, 5) / snr: 1 in noise, 5 / snr near the data; catches the x_0 weight min(snr, 5) or its inverse."""
    process, timesteps = Diffusion(), torch.tensor([10, 100, 999])
    snr = torch.from_numpy(ALPHA_BAR[timesteps] / (1 - ALPHA_BAR[timesteps])).float()
    assert torch.allclose(process.snr(timesteps), snr, rtol=1e-5)
    assert torch.allclose(
        process.min_snr_weight(timesteps), torch.stack([5 / snr[0], 5 / snr[1], snr[2] / snr[2]]), rtol=1e-5
    )


def test_noisy_timesteps_weigh_more_by_their_signal_to_noise_ratio():
    """1 from an SNR of 1 on, then SNR^-power, no more than at 1/900; catches a weight that is not in the loss."""
    process, timesteps = Diffusion(), torch.tensor([50, 400, 999])
    x_0, noise = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    silent = lambda x_t, *_, **__: torch.cat([x_t, x_t], dim=1)  # noqa: E731
    plain, weighted = (training_terms(silent, process, x_0, timesteps, None, noise, noise_power=p) for p in (0.0, 0.5))
    snr = ALPHA_BAR[400] / (1 - ALPHA_BAR[400])
    assert (weighted["mse"] / plain["mse"]).tolist() == pytest.approx([1, snr**-0.5, 30], rel=1e-4)
    assert torch.equal(weighted["vb"], plain["vb"])
