"""The transformer beyond parity: what may flow where, saving and loading, and calls that cannot work."""

from copy import deepcopy

import pytest
import torch

from mdt_core import MDTTransformer, MDTv2, create_model
from mdt_core.layers import Conditioning
from mdt_core.masking import draw_keep, is_kept
from mdt_core.training.initialize import add_adapter, adopt_classes
from tests.helpers.tiny import with_adapter


def tiny(name: str, **changes) -> MDTTransformer:
    """A model of random weights, the zero-initialised ones included."""
    family = {cls.__name__: cls for cls in _subclasses(MDTTransformer)}
    decoder = {"DiT": 0, "MDT": 1, "MDTv2": 2}[name]
    sizes = {"sample_size": 8, "in_channels": 4, "hidden_size": 32, "depth": 4, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    model = family[name](**(sizes | {"decoder_layers": decoder} | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def _subclasses(cls):
    return [sub for direct in cls.__subclasses__() for sub in (direct, *_subclasses(direct))]


VERSIONS = ("DiT", "MDT", "MDTv2")
T = torch.tensor


@torch.no_grad()
@pytest.mark.parametrize("version", ["MDT", "MDTv2"])
def test_hidden_tokens_cannot_reach_the_encoder(version):
    """Catches a leak: the masked pass would learn to copy what it should predict."""
    model, keep = tiny(version), draw_keep(torch.rand(1, 16), 8)
    seen = []
    model.decode = lambda x, c, inputs: seen.append(x) or x  # what the encoder and the side-interpolator made
    x = torch.randn(1, 4, 8, 8)
    hidden = ~is_kept(keep, 16).view(1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for latents in (x, torch.where(hidden, 100.0, x)):
        model(latents, T([5]), T([1]), keep=keep)
    assert torch.equal(*seen)


@torch.no_grad()
def test_the_order_of_kept_tokens_does_not_matter():
    """Catches a bias or position that belongs to the wrong token of a subset."""
    model, keep, x = tiny("MDTv2"), draw_keep(torch.rand(2, 16), 9), torch.randn(2, 4, 8, 8)
    a = model(x, T([5, 800]), T([1, 3]), keep=keep)
    b = model(x, T([5, 800]), T([1, 3]), keep=keep.flip(1))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_masked_shortcut_leaves_kept_tokens_as_the_encoder_made_them():
    """Catches a mask that is upside down: the side-interpolator must write the hidden tokens alone."""
    model, keep = tiny("MDT"), draw_keep(torch.rand(2, 16), 9)
    encoded = torch.randn(2, 9, 32)
    out = model.interpolate(encoded, Conditioning(torch.randn(2, 32)), keep)
    kept = take_rows(out - model.decoder_pos_embed, keep)
    torch.testing.assert_close(kept, encoded)


@torch.no_grad()
@pytest.mark.parametrize("version", ["MDT", "MDTv2"])
def test_a_masked_pass_may_hide_one_token_or_none(version):
    """Catches a side block that is asked for no token at all; with none hidden it is the full pass."""
    model, x, conditions = tiny(version), torch.randn(2, 4, 8, 8), (T([5, 800]), T([1, 3]))
    everything = torch.arange(16).flip(0).expand(2, 16)
    torch.testing.assert_close(model(x, *conditions, keep=everything), model(x, *conditions), rtol=0, atol=1e-5)
    assert model(x, *conditions, keep=everything[:, 1:]).isfinite().all()


def take_rows(x, keep):
    return torch.stack([row[index] for row, index in zip(x, keep, strict=True)])


@pytest.mark.parametrize("version", VERSIONS)
def test_saved_and_opened_again_it_is_the_same_model(version, tmp_path):
    """Catches a configuration that is not saved whole, and a class that is lost on the way."""
    model, x = tiny(version), torch.randn(1, 4, 8, 8)
    model.save_pretrained(tmp_path)
    again = MDTTransformer.from_pretrained(tmp_path)
    assert type(again) is type(model)
    again = deepcopy(
        again
    )  # out of the mapped file: on some processors a product's last bit hangs on where weights lie
    with torch.no_grad():
        assert torch.equal(model(x, T([9]), T([0])), again(x, T([9]), T([0])))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fresh_model_predicts_nothing(version):
    """adaLN-Zero: catches an initialisation that overwrites another."""
    model = create_model(f"{version}-XS/4", sample_size=16, in_channels=8, num_classes=4)
    with torch.no_grad():
        assert model(torch.randn(1, 8, 16, 16), T([1]), T([4])).abs().max() == 0


@pytest.mark.parametrize("patch_size, sample_size", [(2, 8), (4, 16), (8, 16)])
def test_any_patch_and_latent_side(patch_size, sample_size):
    model = tiny("MDTv2", patch_size=patch_size, sample_size=sample_size)
    x = torch.randn(2, 4, sample_size, sample_size)
    assert model(x, T([1, 2]), T([0, 3])).shape == (2, 8, sample_size, sample_size)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: create_model("MDTv3-S/2"), "MDTv3-S/2"),
        (lambda: create_model("MDTv2-S/2", decoder_layers=5), "odd"),
        (lambda: create_model("MDT-S/2", decoder_layers=12), "decoder_layers"),
        (lambda: create_model("DiT-S/8", sample_size=20), "not a multiple"),
        (lambda: tiny("DiT", num_heads=5), "hidden_size .* is not a multiple of num_heads 5"),
        (lambda: tiny("DiT", hidden_size=30, num_heads=3), "and of 4"),
        (lambda: tiny("DiT")(torch.randn(1, 4, 8, 8), T([1]), T([1]), keep=T([[0, 1]])), "side-interpolator"),
    ],
)
def test_a_call_that_cannot_work_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_foreign_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="UNet2DModel"):
        MDTTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", MDTv2.parts)
def test_a_part_left_out_is_gone_and_all_else_is_as_it_was(part, tmp_path):
    """Catches an ablation that changes nothing, one that changes more than its part, and one that is lost on disk."""
    whole, less = tiny("MDTv2"), tiny("MDTv2", without=[part])
    gone = whole.state_dict().keys() - less.state_dict().keys()
    mark = {"relative_bias": "rel_pos_bias", "side_interpolator": "sideblocks"}.get(part, "skip_linear")
    if part == "learnable_positions":
        assert not gone and not less.pos_embed.requires_grad and not less.decoder_pos_embed.requires_grad
    else:
        assert gone and all(mark in key for key in gone)
    less.save_pretrained(tmp_path)
    keep, x = draw_keep(torch.rand(2, 16), 9), torch.randn(2, 4, 8, 8)
    call = (x, T([5, 800]), T([1, 3]), keep)
    assert torch.equal(less(*call), MDTTransformer.from_pretrained(tmp_path)(*call))
    with pytest.raises(ValueError, match="long_shortcuts"):
        tiny("MDT", without=["long_shortcuts"])


@pytest.mark.parametrize("patch_size", [2, 4])
def test_tokens_are_patches_and_lie_one_after_the_other(patch_size):
    """Against the convolution. Catches tokens that lie channel by channel: a compiled block answered NaN to them in
    bfloat16 on a CPU, and everything else copied them."""
    embed = tiny("MDT", patch_size=patch_size).x_embedder
    x = torch.randn(2, 4, 8, 8)
    tokens = embed(x)
    assert torch.allclose(tokens, embed.proj(x).flatten(2).transpose(1, 2), atol=1e-6) and tokens.is_contiguous()


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_an_adapter_changes_its_classes_alone(version, tmp_path):
    """Catches an addition that reaches the null class or another one, and one that is lost on disk or by a second."""
    plain, keep = tiny(version), None if version == "DiT" else draw_keep(torch.rand(4, 16), 9)
    x, timesteps, labels = torch.randn(4, 4, 8, 8), T([5, 200, 500, 900]), T([0, 1, 2, 3])  # 3: the null class
    before = plain(x, timesteps, labels, keep=keep)
    torch.testing.assert_close(add_adapter(plain, [1])(x, timesteps, labels, keep=keep), before, rtol=0, atol=1e-5)
    taught = with_adapter(plain, [1])
    after = taught(x, timesteps, labels, keep=keep)
    changed = (after - before).abs().amax((1, 2, 3))
    assert changed[1] > 0.01 and changed[[0, 2, 3]].max() < 1e-5
    taught.save_pretrained(tmp_path)
    again = with_adapter(MDTTransformer.from_pretrained(tmp_path), [0])
    assert again.config.adapters == [[1], [0]]
    torch.testing.assert_close(taught(x, timesteps, labels, keep=keep)[1:], after[1:], rtol=0, atol=1e-5)
    assert (again(x, timesteps, labels, keep=keep)[0] - before[0]).abs().max() > 0.01


@torch.no_grad()
def test_a_mix_of_classes_has_its_share_of_an_adapter():
    """Catches a walk between two classes that jumps where the adapter begins."""
    taught, x, timesteps = with_adapter(tiny("MDTv2"), [1]), torch.randn(3, 4, 8, 8), T([500, 500, 500])
    mixes = T([[0, 1.0, 0, 0], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(taught.shares(mixes[:2]), taught.shares(T([1, 0])))
    assert taught.shares(mixes)[2].unique().tolist() == [0.5]
    torch.testing.assert_close(taught(x, timesteps, mixes)[:2], taught(x[:2], timesteps[:2], T([1, 0])))


def test_a_class_keeps_its_adapter_where_the_model_lies():
    """Catches an adapter that stays with an index in place of a name, and shares on another device than the weights."""
    taught = with_adapter(tiny("MDTv2"), [1]).to("meta")
    adopt_classes(taught, {0: "cat", 1: "fox", 2: "dog"}, {0: "owl", 1: "dog", 2: "fox"})
    assert taught.config.adapters == [[2]]
    assert taught.adapter_shares.table.is_meta and taught.adapter_shares.table.shape == (4, 64)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"adapters": [[3]]}, r"each in 0\.\.2, not \[\[3\]\]"),
        ({"adapters": [[0]], "adapter_rank": 100_000}, "all ranks together must be 1 to 8192"),
        ({"adapters": [[0]], "adapter_rank": 0}, "all ranks together"),
    ],
)
def test_adapters_that_cannot_be_are_refused(sizes, message):
    """Catches a file that asks for an addition to a class that is none, or for all memory."""
    with pytest.raises(ValueError, match=message):
        tiny("MDT", **sizes)
