"""Adan against the algorithm written out for one number, against an independent package, and its state saved."""

import pytest
import torch
import torch.utils._python_dispatch
from safetensors.torch import load_file, save_file

from mdt_core.training.ema import EMA
from mdt_core.training.optimizers import AdamW, Adan, load_optimizer_tensors, optimizer_tensors


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


SHAPES = [(300, 250), (7,), (16, 9), (), (260, 256)]  # large ones are passed over alone, small ones together


def make(kind=Adan, shapes=SHAPES, **settings):
    """Parameters of `shapes` and their optimizer, the same each time."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return weights, kind(weights, lr=0.01, **settings)


def take_steps(weights, optimizer, count, scale=1.0):
    """Steps with gradients that follow from the weights."""
    for _ in range(count):
        for w in weights:
            w.grad = scale * (torch.sin(3 * w.detach()) + 0.1)
        optimizer.step()


def everything(weights, optimizer, *more):
    state = [value for _, value in sorted(optimizer_tensors(optimizer).items())]
    return [t.detach().clone() for t in (*weights, *state, *more)]


def assert_close(left, right, **tolerance):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.slow
def test_the_compiled_step_is_the_eager_one(compiling):
    """Catches a compiled kernel that changes a copy, and sizes that only one of the two handles."""
    eager, compiled = (make(compile=compile, max_grad_norm=1.0, weight_decay=0.1) for compile in (False, True))
    for weights, optimizer in (eager, compiled):
        take_steps(weights, optimizer, 4)
    assert_close(everything(*eager), everything(*compiled), rtol=0, atol=1e-6)
    assert not torch.equal(compiled[0][0], make()[0][0])


@pytest.mark.parametrize(("ours", "plain"), [(Adan, Adan), (AdamW, torch.optim.AdamW)])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_clipping_inside_is_clipping_before(kernel, ours, plain, scale):
    """Catches a norm of one parameter instead of all, and a factor that also lengthens small gradients."""
    (w1, inside), (w2, outside) = make(ours, max_grad_norm=1.0), make(plain)
    for _ in range(3):
        take_steps(w1, inside, 1, scale)
        for w in w2:
            w.grad = scale * (torch.sin(3 * w.detach()) + 0.1)
        norm = torch.nn.utils.clip_grad_norm_(w2, 1.0)
        outside.step()
        torch.testing.assert_close(inside.grad_norm, norm)
    assert_close(w1, w2, rtol=0, atol=1e-6)


@pytest.fixture(params=["cpu", "mps"])
def kernel(request, monkeypatch):
    """torch's fused AdamW as it is on the CPU, and as on MPS, where it ignores `grad_scale` and `found_inf`."""
    if request.param == "mps":
        fused = torch._fused_adamw_
        ignorant = lambda *tensors, grad_scale, found_inf, **settings: fused(*tensors, **settings)  # noqa: E731
        monkeypatch.setattr(torch, "_fused_adamw_", ignorant)
        monkeypatch.setattr("mdt_core.training.optimizers.CLIPS_IN_KERNEL", ("cuda",))


@pytest.mark.parametrize("kind", [Adan, AdamW])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(kernel, kind, before, bad):
    """Catches NaN that reaches a moment or the average, and a step count that moves on without a step."""
    weights, optimizer = make(kind, max_grad_norm=1.0, weight_decay=0.1)
    model = torch.nn.ParameterList(weights)
    ema = EMA(model, decay=0.9)
    take_steps(weights, optimizer, before)
    state = everything(weights, optimizer, *ema.model.parameters())
    for w in weights:
        w.grad = torch.ones_like(w)
    weights[2].grad[3, 3] = bad
    optimizer.step()
    ema.update(model, before + 1, optimizer.taken)
    assert not optimizer.taken and not optimizer.grad_norm.isfinite()
    if before:
        assert_close(everything(weights, optimizer, *ema.model.parameters()), state, rtol=0, atol=0)
    again, other = make(kind, max_grad_norm=1.0, weight_decay=0.1)
    take_steps(again, other, before + 2)
    take_steps(weights, optimizer, 2)
    assert_close(weights, again, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Adan, AdamW])
def test_a_step_waits_for_no_value(kind):
    """Catches `.item()`, `if tensor` and `float(tensor)` in a step: on a GPU each makes the host wait."""

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "local_scalar_dense" not in str(function), function
            return function(*args, **kwargs or {})

    weights, optimizer = make(kind, max_grad_norm=1.0)
    take_steps(weights, optimizer, 2)
    with Watched():
        take_steps(weights, optimizer, 2)


def test_the_average_and_the_step_leave_gradients_as_they_are():
    """Catches a clip in place: what is logged of a gradient after the step would be another one."""
    weights, optimizer = make(max_grad_norm=1e-3)
    for w in weights:
        w.grad = torch.ones_like(w)
    optimizer.step()
    assert all((w.grad == 1).all() for w in weights)


@pytest.mark.parametrize("kind", [Adan, AdamW])
def test_a_restored_optimizer_takes_the_same_steps(kind, tmp_path):
    """Catches state that is dropped, shared or mixed up between parameters on its way through a file."""
    whole, optimizer = make(kind, max_grad_norm=1.0)
    take_steps(whole, optimizer, 3)
    save_file(optimizer_tensors(optimizer), tmp_path / "optimizer.safetensors")
    again, restored = make(kind, max_grad_norm=1.0)
    take_steps(again, restored, 1)  # it had another state before
    for w, saved in zip(again, whole, strict=True):
        w.data = saved.detach().clone()  # other memory than at the step before
    load_optimizer_tensors(restored, load_file(tmp_path / "optimizer.safetensors"))
    take_steps(whole, optimizer, 3)
    take_steps(again, restored, 3)
    assert_close(everything(whole, optimizer), everything(again, restored), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "other"), [(Adan, AdamW), (AdamW, Adan)])
def test_the_state_of_another_optimizer_is_refused(kind, other):
    """Catches moments that begin at zero without a word, beside others that are kept and never used."""
    weights, optimizer = make(kind)
    take_steps(weights, optimizer, 1)
    with pytest.raises(ValueError, match=f"of another optimizer than {other.__name__}"):
        load_optimizer_tensors(make(other)[1], optimizer_tensors(optimizer))


def test_adan_goes_on_from_a_state_whose_steps_are_whole_numbers():
    """Checkpoints written before step counts were kept on the device hold them as int64."""
    whole, optimizer = make()
    take_steps(whole, optimizer, 3)
    old = {k: v.long() if k.endswith(".step") else v.clone() for k, v in optimizer_tensors(optimizer).items()}
    assert set(old) == {f"{i}.{name}" for i in range(len(SHAPES)) for name in ("step", "prev_grad", "m", "v", "n")}
    again, restored = make()
    for w, saved in zip(again, whole, strict=True):
        w.data.copy_(saved.detach())
    load_optimizer_tensors(restored, old)
    take_steps(whole, optimizer, 2)
    take_steps(again, restored, 2)
    assert_close(whole, again, rtol=0, atol=0)


def test_a_parameter_without_a_gradient_waits():
    """Catches one step count for all: a parameter that joins later has its own first step."""
    weights, optimizer = make(shapes=[(3,), (4,)])
    weights[0].grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    for w in weights:
        w.grad = torch.ones_like(w)
    before = weights[1].detach().clone()
    optimizer.step()
    counts = [int(optimizer.state[w]["step"]) for w in weights]
    assert counts == [3, 1]
    torch.testing.assert_close(before - weights[1].detach(), torch.full((4,), 0.01))  # one learning rate


def test_weights_may_lie_in_memory_in_any_order():
    """Catches an update of a flattened copy: convolution weights in channels_last would never train."""
    plain, strided = (torch.nn.Parameter(torch.ones(4, 3, 2, 2)) for _ in range(2))
    strided.data = strided.data.to(memory_format=torch.channels_last)
    for weight in (plain, strided):
        take_steps([weight], Adan([weight], lr=0.1), 2)
    assert not strided.is_contiguous() and not torch.equal(strided, torch.ones(4, 3, 2, 2))
    assert torch.equal(plain, strided)


def test_sharded_parameters_are_stepped_where_they_are(tmp_path):
    """FSDP: parameters and gradients are DTensors, of which a process holds a part."""
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        whole, optimizer = make(max_grad_norm=1.0, shapes=[(8, 4), (4,)])
        sharded = [torch.nn.Parameter(DTensor.from_local(w.detach().clone(), mesh, [Shard(0)])) for w in whole]
        other = Adan(sharded, lr=0.01, max_grad_norm=1.0)
        for _ in range(2):
            for w, s in zip(whole, sharded, strict=True):
                w.grad = torch.sin(w.detach())
                s.grad = DTensor.from_local(w.grad.clone(), mesh, [Shard(0)])
            optimizer.step()
            other.step()
        assert_close(whole, [s.to_local() for s in sharded], rtol=0, atol=1e-7)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("betas", [(0.02, 0.08), (0.0, 0.08, 0.01), (0.98, 0.92, 1.0)])
def test_betas_that_cannot_be_are_named(betas):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Adan([torch.nn.Parameter(torch.ones(1))], betas=betas)


def test_the_average_of_constant_weights_is_those_weights():
    """Catches an average that keeps a share of the initial weights forever."""
    model = torch.nn.Linear(2, 2)
    ema = EMA(model, decay=0.9)
    torch.nn.init.ones_(model.weight)
    for step in range(1, 200):
        ema.update(model, step)
    torch.testing.assert_close(ema.model.weight, model.weight)
