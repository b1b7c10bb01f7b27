"""The model against a plain second implementation of the papers (bench/reference.py), outputs and gradients."""

from copy import deepcopy

import pytest
import torch

from mdt_core import MDTTransformer, create_model
from mdt_core.bench.reference import ReferenceModel, guided_reference
from mdt_core.guidance import guide
from mdt_core.masking import draw_keep
from mdt_core.samplers import sample

VERSIONS = ("DiT", "MDT", "MDTv2")
T = torch.tensor


def tiny(version: str) -> MDTTransformer:
    """A model whose every weight matters: none is zero, as freshly initialised ones are."""
    torch.manual_seed(0)
    model = create_model(f"{version}-XS/4", sample_size=16, num_classes=3, in_channels=4).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def inputs(n: int = 3):
    torch.manual_seed(1)
    return torch.randn(n, 4, 16, 16), T([5, 400, 990])[:n], T([0, 2, 3])[:n]


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """1e-4 of the reference's standard deviation."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.std().item())


CASES = [(version, None) for version in VERSIONS] + [(version, 9) for version in VERSIONS[1:]]


@torch.no_grad()
@pytest.mark.parametrize("version, num_keep", CASES)
def test_forward(version, num_keep):
    """Catches a faster path that computes something else: a bias of the wrong pair, a modulation of another block."""
    model = tiny(version)
    keep = None if num_keep is None else draw_keep(torch.rand(3, 16), num_keep)
    batch = inputs()
    assert_equal(model(*batch, keep), ReferenceModel(model)(*batch, keep))


@pytest.mark.parametrize("version, num_keep", CASES)
def test_gradients(version, num_keep):
    """Catches a hand-written backward that is wrong, or a weight that gets no gradient."""
    ours, theirs = tiny(version).train(), tiny(version).train()
    keep = None if num_keep is None else draw_keep(torch.rand(3, 16), num_keep)
    batch = inputs()
    ours(*batch, keep).square().mean().backward()
    ReferenceModel(theirs)(*batch, keep).square().mean().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            error = (a.grad - b.grad).abs().max().item()
            assert error <= 1e-4 * b.grad.abs().max().item() + 1e-9, f"{name}: {error:.1e}"


@torch.no_grad()
def test_guided_sampling():
    """Catches a trajectory that drifts from the published one, with guidance at every step."""
    model, latents, labels = tiny("MDTv2"), torch.randn(2, 4, 16, 16), T([1, 2])
    fast = guide(model, labels, null_class=3, guidance_scale=3.8, guidance_power=4.0, skip_tolerance=0)
    runs = [
        list(sample(denoise, latents, sampler="ddim", num_inference_steps=5))[-1].x_t
        for denoise in (fast, guided_reference(ReferenceModel(deepcopy(model)), labels))
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-3 * runs[1].std().item())
