"""Inpainting in latents, where the right answer is known: the conditional distribution of a Gaussian."""

import math
from dataclasses import replace

import pytest
import torch

from mdt_core.inpainting import (
    METHODS,
    Method,
    choose_content,
    fill,
    find_method,
    inpaint,
    resampling_order,
    starting_latents,
)
from mdt_core.samplers import generators, sampling_timesteps
from tests.helpers.analytic import ALPHA_BAR

WIDTH, DRAWS, MEAN = 16, 1000, 0.5
HOLE = torch.zeros(1, WIDTH, dtype=torch.bool)
HOLE[:, 5:11] = True
HARDNESS = HOLE.float()


class StripDenoiser:
    """The exact score of a strip of 16 cells whose correlation falls off as exp(-distance / 4).

    Channels are independent draws, so one latent of many channels is many samples. The exact answer does not need the
    masked pass: `keep` is noted and changes nothing, as for a network that lost nothing by it.
    """

    def __init__(self):
        cells = torch.arange(WIDTH, dtype=torch.float64)
        self.covariance = torch.exp(-(cells[:, None] - cells).abs() / 4)
        self.variances, self.axes = torch.linalg.eigh(self.covariance)
        self.calls: list[tuple[int, torch.Tensor, torch.Tensor | None]] = []  # t, x_t, keep

    def __call__(self, x_t, t, keep=None, guided=True):
        self.calls.append((t, x_t, keep))
        a = ALPHA_BAR[t]
        along = (x_t.double() - math.sqrt(a) * MEAN) @ self.axes
        epsilon = (along * math.sqrt(1 - a) / (a * self.variances + 1 - a)) @ self.axes.T
        return torch.cat([epsilon, torch.zeros_like(epsilon)], dim=1).float()

    def picture(self) -> torch.Tensor:
        """One strip of the data, (WIDTH,)."""
        noise = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return MEAN + torch.linalg.cholesky(self.covariance) @ noise

    def conditional(self, picture):
        """Mean and covariance of the hole given the rest."""
        hole, rest = HOLE[0], ~HOLE[0]
        gain = self.covariance[hole][:, rest] @ self.covariance[rest][:, rest].inverse()
        mean = MEAN + gain @ (picture[rest] - MEAN)
        return mean, self.covariance[hole][:, hole] - gain @ self.covariance[rest][:, hole]


def repaint_strip(method, draws=DRAWS, seeds=(0,), **settings):
    """Denoiser, known latents and steps of repainting the strip's middle."""
    denoise = StripDenoiser()
    known = denoise.picture().float().expand(1, draws, 1, WIDTH)
    settings = {"hardness": HARDNESS, "generators": generators(seeds)} | settings
    return denoise, known, list(inpaint(denoise, known, method=method, **settings))


def errors(method, **settings):
    """Largest error of the mean, and of the standard deviation as a ratio, in the hole."""
    denoise, known, steps = repaint_strip(method, **settings)
    mean, covariance = denoise.conditional(known[0, 0, 0].double())
    sample = steps[-1].x_t[0, :, 0][:, HOLE[0]].double()
    ratio = sample.std(0) / covariance.diagonal().sqrt()
    return (sample.mean(0) - mean).abs().max().item(), (ratio - 1).abs().max().item()


@pytest.mark.parametrize(
    "method", [Method(repeats=10, window=(0.5, 0.95)), Method(repeats=10, window=(0.5, 0.95), handover=500)]
)
def test_resampling_reaches_the_conditional_distribution(method):
    """Catches known cells at a wrong level, a jump to a wrong level, and a hole that does not listen to its border."""
    mean, ratio = errors(method)
    assert mean < 0.12
    assert ratio < 0.12


def test_more_repeats_come_closer_than_replacement_alone():
    """Replacement alone is biased however many steps it takes; this is what resampling is for."""
    blend, more_steps, repaint = (
        errors("blend"),
        errors("blend", num_inference_steps=100),
        errors(replace(METHODS["repaint"], repeats=5)),
    )
    assert min(blend[0], more_steps[0]) > 0.2
    assert repaint[0] < 0.6 * blend[0]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("method", ["blend", "repaint"])
def test_known_cells_have_the_level_at_which_the_model_is_asked(method, sampler):
    """The off-by-one that shipped in public code: known cells noised to the level of the step that was just made."""
    denoise, known, steps = repaint_strip(method, sampler=sampler, num_inference_steps=12)
    assert len(denoise.calls) == len(steps)
    for t, x_t, _ in denoise.calls:
        noise = (x_t - math.sqrt(ALPHA_BAR[t]) * known)[..., ~HOLE]
        assert noise.std().item() == pytest.approx(math.sqrt(1 - ALPHA_BAR[t]), rel=0.05)


def test_known_cells_get_the_noise_that_the_model_predicts():
    """At the level to come, of the state after the step. Catches the prediction of the step before, or of its level."""
    method = Method(predicted=True)
    denoise, known, steps = repaint_strip(method, draws=3, num_inference_steps=6)
    calls = denoise.calls
    timesteps = sampling_timesteps("ddpm", 6)
    assert [t for t, _, _ in calls] == [timesteps[0], *(t for t in timesteps[1:] for _ in range(2))]
    assert len(calls) == method.calls(6) == 11 and len(steps) == 6
    for (t, proxy, _), (_, x_t, _) in zip(calls[1::2], calls[2::2], strict=True):
        epsilon = denoise(proxy, t)[:, :3]
        noisy = math.sqrt(ALPHA_BAR[t]) * known + math.sqrt(1 - ALPHA_BAR[t]) * epsilon
        assert torch.allclose(x_t[..., ~HOLE], noisy[..., ~HOLE], atol=1e-5)
        assert torch.equal(x_t[..., HOLE], proxy[..., HOLE])


def test_predicted_noise_comes_closer_than_drawn_noise_with_as_many_calls():
    """What it is for: few calls. Catches known cells that the hole does not hear."""
    drawn, predicted = errors(Method(), num_inference_steps=25), errors(Method(predicted=True), num_inference_steps=13)
    assert predicted[0] < 0.8 * drawn[0]


@pytest.mark.parametrize("method", METHODS)
def test_known_cells_end_as_they_were(method):
    _, known, steps = repaint_strip(method, draws=3, num_inference_steps=6)
    assert torch.equal(steps[-1].x_t[..., ~HOLE], known[..., ~HOLE])


def test_masked_pass_sees_the_known_tokens_down_to_the_handover():
    """Tokens of two cells: one that the hole touches is hidden. Catches the pass at the wrong end, or hidden and kept
    exchanged."""
    hardness = torch.zeros(2, 8)
    hardness[0, 3:5] = 1.0  # touches the second and the third of the four tokens of the one row
    asked = []

    def denoise(x_t, t, keep=None, guided=True):
        asked.append((t, None if keep is None else keep.tolist()))
        return torch.zeros(len(x_t), 4, 2, 8)

    rngs = generators([0, 1, 2])
    method = Method(handover=600)
    list(inpaint(denoise, torch.zeros(1, 2, 2, 8), hardness, generators=rngs, method=method, patch_size=2))
    assert asked == [(t, [[0, 3]] * 3 if t >= 600 else None) for t in sampling_timesteps("ddpm", 50)]


def test_steps_begin_where_asked():
    """Catches a start with the noise of timestep 999."""
    denoise, _, steps = repaint_strip("blend", num_inference_steps=8, first_timestep=800)
    assert [t for t, _, _ in denoise.calls] == [step.timestep for step in steps] == sampling_timesteps("ddpm", 8, 800)


def test_masked_pass_needs_something_to_see():
    """With every token touched there is nothing to keep: the standard pass has to do."""
    denoise = StripDenoiser()
    list(inpaint(denoise, torch.zeros(1, 1, 1, WIDTH), torch.ones(1, WIDTH), generators=generators([0]), method="mdt"))
    assert all(keep is None for _, _, keep in denoise.calls)


def test_soft_cells_are_held_until_their_time():
    """A cell of hardness 0.4 is known above timestep 400 and free below; catches thresholds that run the other way."""
    hardness = HARDNESS.clone()
    hardness[0, 4] = 0.4
    denoise, known, steps = repaint_strip("blend", hardness=hardness)
    noise = {t: (x_t - math.sqrt(ALPHA_BAR[t]) * known)[..., 4].std() for t, x_t, _ in denoise.calls}
    for t, std in noise.items():
        if t >= 400:
            assert std.item() == pytest.approx(math.sqrt(1 - ALPHA_BAR[t]), rel=0.1)
    assert steps[-1].x_t[..., 4].std() > 0.1
    assert torch.equal(steps[-1].x_t[..., 3], known[..., 3])


def test_soft_cells_are_held_for_longer_where_the_method_says_so():
    """Down to its `ring`, or their own hardness if that is less; catches one that holds the hole as well."""
    hardness = HARDNESS.clone()
    hardness[0, 4], hardness[0, 3] = 0.8, 0.1
    denoise, known, steps = repaint_strip(Method(ring=0.3), hardness=hardness)
    for t, x_t, _ in denoise.calls:
        noise = (x_t - math.sqrt(ALPHA_BAR[t]) * known).std((0, 1, 2)) / math.sqrt(1 - ALPHA_BAR[t])
        held = (noise - 1).abs() < 0.1
        assert held[3] or t < 100
        assert held[4] == (t >= 300) or 250 <= t < 300  # just freed, it is where it was
        assert not held[5] or t > 400  # higher up the noise hides the difference
    assert steps[-1].x_t[..., 4].std() > 0.1
    assert torch.equal(steps[-1].x_t[..., 2], known[..., 2])


def test_a_method_brings_its_trajectory():
    """Unless it is named; catches a default that makes "mdt" take 250 model calls, or begin at pure noise."""
    method = Method(num_inference_steps=7, sampler="dpm++", first_timestep=800, repeats=2, window=(0, 1))
    steps = repaint_strip(method)[2]
    assert len(steps) == 13
    assert [step.timestep for step in steps[::2]] == sampling_timesteps("dpm++", 7, 800)
    chosen = {"num_inference_steps": 3, "sampler": "ddim", "first_timestep": 900}
    steps = repaint_strip(method, **chosen)[2]
    assert [step.timestep for step in steps[::2]] == sampling_timesteps(**chosen)


def test_strength_starts_from_the_noised_content():
    content = torch.full((1, DRAWS, 1, WIDTH), 3.0)
    denoise, _, steps = repaint_strip("blend", strength=0.3, content=content)
    t, x_t, _ = denoise.calls[0]
    assert len(steps) == 15
    assert t == sampling_timesteps("ddpm", 50)[35]
    assert x_t.mean().item() == pytest.approx(3 * math.sqrt(ALPHA_BAR[t]), abs=0.05)


def test_a_variant_depends_on_its_seed_alone():
    """Alone and beside others, through resampling and the hook's own noise: bit for bit."""
    alone = repaint_strip("mdt", draws=2, seeds=[7], num_inference_steps=10)[2][-1].x_t
    beside = repaint_strip("mdt", draws=2, seeds=[1, 7, 2], num_inference_steps=10)[2][-1].x_t
    assert torch.equal(alone[0], beside[1])
    assert not torch.equal(beside[0], beside[1])


def test_resampling_order():
    assert resampling_order(0, 6, Method()) == [0, 1, 2, 3, 4, 5]
    assert resampling_order(0, 6, Method(repeats=3, jump=2, window=(0.3, 1))) == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]
    assert resampling_order(0, 5, Method(repeats=2, window=(0, 1))) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert resampling_order(3, 5, Method(repeats=2, window=(0, 1))) == [3, 3, 4]
    assert len(resampling_order(0, 50, Method(repeats=2, window=(0, 1)))) == 99


@pytest.mark.parametrize("method", METHODS.values())
def test_presets_stay_within_a_hundred_calls(method):
    assert method.calls(method.num_inference_steps) <= 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lama"}, "blend, repaint, mdt"),
        ({"method": "blend", "strength": 0.0}, "strength"),
        ({"method": "blend", "strength": 1.1}, "strength"),
        ({"method": "blend", "sampler": "euler"}, "euler"),
        ({"method": "blend", "num_inference_steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_refused_by_the_call(settings, words):
    """Not at the first step: a page wants to answer at once."""
    denoise = StripDenoiser()
    with pytest.raises(ValueError, match=words):
        inpaint(denoise, torch.zeros(1, 1, 1, WIDTH), HARDNESS, generators=generators([0]), **settings)


def test_methods_are_found_by_name_or_given():
    own = Method(repeats=7)
    assert find_method(own) is own
    assert find_method("mdt") is METHODS["mdt"]


def test_fill_knows_only_the_surroundings():
    """Whatever stands in the hole, the result is the same, within the surroundings' range, and theirs outside it."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 37, 50, generator=random)
    hole = torch.zeros(37, 50, dtype=torch.bool)
    hole[5:30, 10:50] = True
    filled = fill(pixels, hole)
    assert torch.equal(filled, fill(torch.where(hole, 9.0, pixels), hole))
    assert torch.equal(filled[..., ~hole], pixels[..., ~hole])
    assert filled.min() >= 0 and filled.max() <= 1
    assert filled[..., hole].std() < 0.5 * pixels.std()


def test_fill_continues_a_constant():
    hole = torch.ones(16, 16, dtype=torch.bool)
    hole[0, 0] = False
    assert torch.allclose(fill(torch.full((1, 3, 16, 16), 0.7), hole), torch.tensor(0.7))


@pytest.mark.parametrize("masked_content", ["fill", "original", "noise"])
def test_starting_latents(masked_content):
    """The old object reaches the latents with "original" alone, and "noise" is each image's own."""
    pixels = torch.zeros(1, 3, 8, 8)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[:4] = True
    pixels[..., :4, :] = 5.0
    known, content = starting_latents(masked_content, lambda x: x, pixels, hole, hole.float(), generators([0, 1]))
    assert (known[..., hole] == 5).all() == (masked_content == "original")
    assert (known[..., ~hole] == 0).all()
    assert torch.equal(content[0, ..., ~hole], known[0, ..., ~hole])
    if masked_content == "noise":
        assert len(content) == 2
        assert content[..., hole].std().item() == pytest.approx(1, abs=0.2)
        assert not torch.equal(content[0], content[1])
    else:
        assert content is known


def test_masked_content_suits_the_strength():
    """Below 1 a part of the original is meant to stay: its blurred fill or noise would be kept in its place."""
    assert [choose_content("auto", strength) for strength in (1, 1.0, 0.99, 0.1)] == ["fill", "fill"] + 2 * ["original"]
    assert choose_content("fill", 0.5) == "fill" and choose_content("noise", 1.0) == "noise"
    with pytest.raises(ValueError, match="auto, fill, original, noise"):
        choose_content("grey", 1.0)
    with pytest.raises(ValueError, match='"noise" takes the whole trajectory: strength 1'):
        choose_content("noise", 0.5)
