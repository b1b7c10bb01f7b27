"""A cached model computes things once and remembers them: never what the model would not say now."""

import gc

import pytest
import torch

from mdt_core.acceleration.cached_conditioning import CachedModel
from mdt_core.masking import draw_keep
from tests.helpers.tiny import tiny_pipeline, with_adapter
from tests.mdt_core.test_transformer import VERSIONS, tiny

TIMESTEPS, LABELS = [999, 640, 320, 10], [0, 2, 3]
T = torch.tensor


def call(n: int = 3, t: int = 640):
    torch.manual_seed(1)
    return torch.randn(n, 4, 8, 8), torch.full((n,), t), T([2, 0, 3])[:n]


@torch.no_grad()
@pytest.mark.parametrize("version", ["DiT", "MDT", "MDTv2", "MDTv2 with an adapter"])
@pytest.mark.parametrize("budget", [1, 2**27])
def test_it_says_what_the_model_says(version, budget):
    """Catches a row of the wrong timestep or label, as a budget that holds one timestep at a time would show."""
    model = tiny(version) if version in VERSIONS else with_adapter(tiny("MDTv2"), [2])
    cached = CachedModel(model, TIMESTEPS, LABELS, budget)
    for t in (*TIMESTEPS, 320, 77):  # back again, and one that was not announced
        torch.testing.assert_close(cached(*call(t=t)), model(*call(t=t)), rtol=0, atol=1e-5)
    if version != "DiT":
        keep = draw_keep(torch.rand(3, 16), 9)
        torch.testing.assert_close(cached(*call(), keep), model(*call(), keep), rtol=0, atol=1e-5)


@torch.no_grad()
def test_mixed_timesteps_and_strange_labels():
    """Catches a batch answered for its first timestep, and a label that was not announced answered for another."""
    model = tiny("MDTv2")
    cached, (x, _, labels) = CachedModel(model, TIMESTEPS, LABELS), call()
    mixed = T([10, 999, 320])
    torch.testing.assert_close(cached(x, mixed, labels), model(x, mixed, labels), rtol=0, atol=1e-5)
    with pytest.raises((IndexError, RuntimeError)):
        cached(x, T([10, 10, 10]), T([0, 1, 2]))


def load_other_weights(model):
    model.load_state_dict({key: value * 1.5 if value.is_floating_point() else value for key, value in weights(model)})


def assign_other_weights(model):
    other = {key: value * 1.5 if value.is_floating_point() else value.clone() for key, value in weights(model)}
    model.load_state_dict(other, assign=True)


def step(model):
    with torch.enable_grad():
        model.train()(*call()).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval()


def change_type(model):
    model.to(torch.float64).to(torch.float32)
    model.t_embedder.mlp[0].weight.mul_(1.5)


def weights(model):
    return [(key, value.clone()) for key, value in model.state_dict().items()]


@torch.no_grad()
@pytest.mark.parametrize("change", [load_other_weights, assign_other_weights, step, change_type])
def test_changed_weights_are_noticed(change):
    """Catches a modulation or bias remembered from weights that are gone."""
    model = tiny("MDTv2")
    cached = CachedModel(model, TIMESTEPS, LABELS)
    before = cached(*call())
    change(model)
    after = cached(*call())
    torch.testing.assert_close(after, model(*call()), rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_masked_pass_is_not_recorded():
    """Catches a CUDA graph for every number of kept tokens: soft edges have as many as there are steps."""
    recorded = []
    wrap = lambda function: lambda *given: recorded.append(given) or function(*given)  # noqa: E731
    model = tiny("MDTv2")
    cached, keep = CachedModel(model, TIMESTEPS, LABELS, wrap=wrap), draw_keep(torch.rand(3, 16), 9)
    torch.testing.assert_close(cached(*call()), model(*call()), rtol=0, atol=1e-5)
    torch.testing.assert_close(cached(*call(), keep), model(*call(), keep), rtol=0, atol=1e-5)
    assert len(recorded) == 1 and recorded[0][2] is None


@torch.no_grad()
def test_nothing_outlives_a_cached():
    """Catches tables and CUDA graphs that hold themselves: without the collector, 128 MB a picture stay."""
    gc.collect()
    gc.disable()
    try:
        CachedModel(tiny("MDTv2"), TIMESTEPS, LABELS, wrap=lambda function: lambda *given: function(*given))(*call())
        tiny_pipeline()("cat", seeds=1, num_inference_steps=2)
        assert [thing for thing in gc.get_objects() if type(thing) is CachedModel] == []
    finally:
        gc.enable()


def test_training_remembers_nothing():
    """Catches a training step whose modulations get no gradient."""
    model = tiny("MDTv2").train()
    with torch.enable_grad():
        CachedModel(model, TIMESTEPS, LABELS)(*call()).sum().backward()
    assert all(block.adaLN_modulation[1].weight.grad.abs().max() > 0 for block in model.de_blocks)
