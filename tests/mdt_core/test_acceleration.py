"""Options for speed: refused where they cannot work, and their cost in the result is what is said of it."""

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mdt_core import MDTPipeline
from mdt_core.acceleration.compiled_blocks import COMPILED_KINDS
from mdt_core.acceleration.precision import choose_dtype, lower_products
from mdt_core.bench import command as bench
from mdt_core.bench.rows import ROWS, Row
from mdt_core.bench.timing import Timing
from mdt_core.kernels import attention
from tests.mdt_core.test_pipeline import SETTINGS, pipe  # noqa: F401

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "amx, width, chosen",
    [
        (True, None, torch.bfloat16),
        (True, 384, torch.bfloat16),
        (True, 192, torch.float32),
        (False, 1152, torch.float32),
    ],
)
def test_bfloat16_by_itself_only_where_it_pays_on_a_cpu(monkeypatch, amx, width, chosen):
    """Catches a choice by AVX-512's bfloat16, and one for a model so small that casting takes longer."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_dtype("auto", CPU, width) == chosen
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16 and choose_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("dtype, message", [("int4", "float32"), ("float16", "GPU")])
def test_an_impossible_dtype_is_named(dtype, message):
    with pytest.raises(ValueError, match=message):
        choose_dtype(dtype, CPU)


@pytest.mark.parametrize("dtype, most", [("float32", 0.0), ("bfloat16", 0.05)])
def test_a_dtype_changes_a_picture_by_little(pipe, dtype, most):  # noqa: F811
    """Catches an option that is ignored, and one that breaks the model."""
    plain = pipe("cat", seeds=1, output_type="latent", **SETTINGS).images
    changed = pipe.optimize(dtype=dtype)("cat", seeds=1, output_type="latent", **SETTINGS).images
    pipe.optimize(dtype="float32")
    off = ((changed - plain).abs().max() / plain.std()).item()
    assert off <= most and (most == 0 or off > 0)
    assert changed.dtype == torch.float32


def test_a_picture_in_16_bits_is_the_same_alone_and_in_a_batch(pipe):  # noqa: F811
    """Catches products whose rounding hangs on the batch: an image of four would not come again from its recipe."""
    pipe.optimize(dtype="bfloat16")
    four = pipe([0, 1, 0, 1], seeds=[5, 6, 7, 8], output_type="latent", **SETTINGS).images
    alone = pipe([1], seeds=[8], output_type="latent", **SETTINGS).images
    assert torch.equal(four[3:], alone)


def test_a_pipeline_of_16_bits_makes_the_same_picture_alone_and_in_a_batch(pipe, tmp_path):  # noqa: F811
    pipe.save_pretrained(tmp_path)
    lower = MDTPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    four = lower([0, 1, 0, 1], seeds=[5, 6, 7, 8], output_type="latent", **SETTINGS).images
    assert torch.equal(four[3:], lower([1], seeds=[8], output_type="latent", **SETTINGS).images)


def test_what_was_chosen_for_one_device_is_not_taken_to_another(pipe):  # noqa: F811
    """Catches lowered weights that stay behind. (Another type stands for another device.)"""
    pipe.optimize(dtype="bfloat16")
    assert pipe.to("cpu")._evaluation.dtype == torch.bfloat16  # it was there
    moved = pipe.to(torch.float64)
    images = moved("cat", seeds=1, output_type="latent", **SETTINGS).images
    assert moved._evaluation.dtype == torch.float32 and images.isfinite().all()
    pipe.to(torch.float32)


def test_bfloat16_by_itself_only_on_a_gpu_that_has_it(monkeypatch):
    """torch says of a T4, too, that it supports bfloat16: it imitates it. A second GPU may be of another kind."""
    kinds = {"cuda:0": SimpleNamespace(major=9), "cuda:1": SimpleNamespace(major=7)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: kinds[str(device)])
    assert choose_dtype("auto", torch.device("cuda:0")) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda:1")) == torch.float32


@pytest.mark.parametrize("shared", [None, 1, 3])  # no bias, one for all images, one each
def test_attention_in_16_bits_learns_as_in_32(shared):
    """Against torch's own in float32: catches a bias or a scale that a backward of ours forgets."""
    torch.manual_seed(0)
    shapes = [(3, 2, 16, 8)] * 3 + ([] if shared is None else [(shared, 2, 16, 16)])
    exact = [torch.randn(shape).bfloat16().float().requires_grad_() for shape in shapes]
    lower = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weights = torch.randn(shapes[0])
    (F.scaled_dot_product_attention(*exact[:3], attn_mask=(exact[3:] or [None])[0]) * weights).sum().backward()
    (attention(*lower[:3], (lower[3:] or [None])[0]) * weights).sum().backward()
    for ours, theirs in zip(lower, exact, strict=True):
        assert (ours.grad.float() - theirs.grad).norm() < 2e-2 * theirs.grad.norm()


@torch.no_grad()
def test_a_lowered_twin_computes_what_autocast_does(pipe):  # noqa: F811
    """Catches weights that are rounded in other places than autocast would, and a twin that changes the original."""
    model = pipe.transformer
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    twin = lower_products(model, torch.bfloat16)
    x, t, y = torch.randn(2, *pipe.latent_shape), torch.tensor([10, 700]), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(twin(x, t, y), model(x, t, y))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert twin.pos_embed is model.pos_embed


def test_a_gpu_too_is_given_weights_that_are_lowered_once(pipe, monkeypatch):  # noqa: F811
    """Catches a cast of every weight in every evaluation, which on a GPU takes longer than a small batch's products."""
    monkeypatch.setattr(MDTPipeline, "device", torch.device("cuda"))
    assert pipe.optimize(dtype="bfloat16")._evaluation.lowered.de_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert pipe.optimize(dtype="float32")._evaluation.lowered is None


@pytest.mark.slow
def test_a_compiled_pipeline_draws_the_same_and_is_compiled_as_often_as_it_needs(pipe, monkeypatch, compiling):  # noqa: F811
    """Catches torch's limit of 8 kinds of call, which inpainting after drawing passes: the rest stays uncompiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled, settings = deepcopy(pipe), {"seeds": 1, "num_inference_steps": 1, "output_type": "latent"}
    with torch._dynamo.config.patch(recompile_limit=8):
        compiled.optimize(compile=True, dtype="float32")
        assert torch._dynamo.config.recompile_limit == COMPILED_KINDS
        torch.testing.assert_close(compiled("cat", **settings).images, pipe("cat", **settings).images)


def test_the_bench_ends_with_json(monkeypatch, capsys):
    """Catches a last line that no program can read, and a ratio that is upside down."""
    fast, slow = Timing((1.0, 1.0), 2**20), Timing((3.0, 3.0), None)
    monkeypatch.setitem(ROWS, "cold", lambda setting: iter([Row.of("some work", fast, slow, error=1e-6)]))
    bench.main(["--rows", "cold", "--device", "cpu"])
    *_, line, last = capsys.readouterr().out.strip().splitlines()
    (row,) = bench.json.loads(last)["rows"]
    assert row["ratio"] == 3.0 and row["peak_mib"] == 1 and row["against"] == "reference" and "some work" in line
    with pytest.raises(SystemExit):
        bench.main(["--rows", "no-such-row"])
