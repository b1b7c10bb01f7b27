"""Adan against the algorithm written out for one number, against an independent package, and its state saved."""

import pytest
import torch

from mdt_core.optim import EMA, Adan, load_optimizer_tensors, optimizer_tensors


def adan_by_hand(theta, gradients, lr, betas, eps, weight_decay):
    """arXiv 2208.06677, algorithm 1, with bias correction, in plain Python floats."""
    b1, b2, b3 = betas
    m = v = n = 0.0
    previous = gradients[0]
    for k, g in enumerate(gradients, start=1):
        m = (1 - b1) * m + b1 * g
        v = (1 - b2) * v + b2 * (g - previous)
        n = (1 - b3) * n + b3 * (g + (1 - b2) * (g - previous)) ** 2
        m_hat, v_hat, n_hat = (x / (1 - (1 - b) ** k) for x, b in ((m, b1), (v, b2), (n, b3)))
        theta = (theta - lr / (n_hat**0.5 + eps) * (m_hat + (1 - b2) * v_hat)) / (1 + lr * weight_decay)
        previous = g
    return theta


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_adan_is_algorithm_1(weight_decay):
    """Catches a swapped beta, a missing bias correction, a difference of the wrong sign."""
    settings = {"lr": 0.1, "betas": (0.02, 0.08, 0.01), "eps": 1e-8, "weight_decay": weight_decay}
    parameter = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    optimizer, gradients = Adan([parameter], **settings), [0.3, -0.2, 0.9, 0.05, -1.1]
    for g in gradients:
        parameter.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(adan_by_hand(0.7, gradients, **settings), rel=1e-12)


def test_adan_agrees_with_an_independent_implementation():
    """Catches a misreading that the test above would share."""
    reference = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed").Adan
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5, 7)) for _ in range(2))
    pair = [
        (ours, Adan([ours], lr=1e-3)),
        (theirs, reference([theirs], lr=1e-3, betas=(0.98, 0.92, 0.99), weight_decay=0.0, max_grad_norm=0.0)),
    ]
    for _ in range(20):
        gradient = torch.randn(5, 7)
        for parameter, optimizer in pair:
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_no_step_is_wild():
    """adan-pytorch's second step is hundreds of learning rates long; Adan's is about one."""
    parameter = torch.nn.Parameter(torch.zeros(1000))
    optimizer, largest = Adan([parameter], lr=1.0), 0.0
    torch.manual_seed(0)
    for _ in range(10):
        before = parameter.detach().clone()
        parameter.grad = torch.randn(1000)
        optimizer.step()
        largest = max(largest, (parameter - before).abs().max().item())
    assert largest < 10


@pytest.mark.parametrize("kind", [Adan, torch.optim.AdamW])
def test_a_restored_optimizer_takes_the_same_steps(kind):
    """Catches state that is dropped or mixed up between parameters."""

    def steps(weights, optimizer, count):
        for _ in range(count):
            for w in weights:
                w.grad = torch.sin(3 * w.detach()) + 0.1
            optimizer.step()

    start = [torch.linspace(0, 1, 6), torch.linspace(-1, 1, 4)]
    whole = [torch.nn.Parameter(x.clone()) for x in start]
    optimizer = kind(whole, lr=0.01)
    steps(whole, optimizer, 3)
    again = [torch.nn.Parameter(x.detach().clone()) for x in whole]
    restored = kind(again, lr=0.01)
    load_optimizer_tensors(restored, {k: v.clone() for k, v in optimizer_tensors(optimizer).items()})
    steps(whole, optimizer, 3)
    steps(again, restored, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_the_average_of_constant_weights_is_those_weights():
    """Catches an average that keeps a share of the initial weights forever."""
    model = torch.nn.Linear(2, 2)
    ema = EMA(model, decay=0.9)
    torch.nn.init.ones_(model.weight)
    for step in range(1, 200):
        ema.update(model, step)
    torch.testing.assert_close(ema.model.weight, model.weight)
