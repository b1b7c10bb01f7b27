"""A larger model begins as the smaller one's function, and all that is new in it learns."""

import pytest
import torch
from torch import Tensor

from mdt_core.transformer import MDT, DiT, MDTTransformer, MDTv2
from mdt_core.weights.growth import grow

SIZES = {"sample_size": 8, "hidden_size": 32, "depth": 6, "num_heads": 2, "decoder_layers": 2, "num_classes": 5}
LARGE = {"hidden_size": 48, "num_heads": 3, "depth": 11, "decoder_layers": 3}


def trained(family: type[MDTTransformer], centred: bool = False, **sizes) -> MDTTransformer:
    """A model of random weights; on request its stream has mean zero over the channels, as growth in width assumes."""
    torch.manual_seed(0)
    model = family(**(SIZES | sizes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.2)
            if not centred:
                continue
            if name.endswith(("pos_embed", "mask_token")):
                weight -= weight.mean(dim=-1, keepdim=True)
            elif "x_embedder" in name:
                weight -= weight.mean(dim=0, keepdim=True)
            elif "adaLN" in name and "final" not in name:  # a gate's channels differ: it opens alike for all
                gates = weight.unflatten(0, (6, -1))[2::3]
                gates.copy_(gates.mean(dim=1, keepdim=True).expand_as(gates).clone())
            elif "attn.proj" in name or "mlp.fc2" in name or "skip_linear" in name:
                weight -= weight.mean(dim=0, keepdim=True)
    return model


def outputs(model: MDTTransformer) -> list[Tensor]:
    """Of the full pass and, where there is one, of the masked pass."""
    generator = torch.Generator().manual_seed(1)
    x, timesteps, labels = torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([3, 400, 900]), torch.arange(3)
    keep = torch.stack([torch.randperm(16, generator=generator)[:9] for _ in range(3)])
    with torch.no_grad():
        return [model(x, timesteps, labels, each) for each in ((None,) if type(model) is DiT else (None, keep))]


@pytest.mark.parametrize("family", [DiT, MDT, MDTv2])
def test_a_deeper_model_computes_the_same(family):
    """Catches a gate left open, a long shortcut joined to another block, and a decoder block put into the encoder."""
    shallow = {"decoder_layers": 0} if family is DiT else {}
    deep = {"depth": 7, **shallow} if family is DiT else {"depth": 12, "decoder_layers": 4}
    small, large = trained(family, **shallow), family(**(SIZES | deep)).eval()
    grow(small, large)
    for expected, got in zip(outputs(small), outputs(large), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [DiT, MDT, MDTv2])
def test_a_wider_and_deeper_model_computes_the_same_where_the_stream_has_mean_zero(family):
    """Catches new channels, heads or units that change old ones, misplaced parts of a weight, a norm left as it was."""
    shallow = {"decoder_layers": 0} if family is DiT else {}
    small, large = trained(family, centred=True, **shallow), family(**(SIZES | LARGE | shallow)).eval()
    grow(small, large)
    for expected, got in zip(outputs(small), outputs(large), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_all_that_is_new_learns():
    """Catches new weights between two zeros, which no gradient ever reaches."""
    small, large = trained(MDTv2), MDTv2(**(SIZES | LARGE))
    grow(small, large)
    begun = {name: weight.detach().clone() for name, weight in large.named_parameters()}
    optimizer = torch.optim.Adam(large.parameters(), lr=1e-3, eps=1e-30)
    x, timesteps, labels = torch.randn(64, 4, 8, 8), torch.randint(1000, (64,)), torch.arange(64) % 6
    keep = torch.stack([torch.randperm(16)[:9] for _ in range(64)])
    for _ in range(4):  # a gate opens, then what is behind it moves
        loss = sum((large(x, timesteps, labels, each) - x.repeat(1, 2, 1, 1)).square().mean() for each in (None, keep))
        loss.backward()
        optimizer.step(), optimizer.zero_grad()
    for name, weight in large.named_parameters():
        still = weight == begun[name]
        if name.endswith("relative_position_bias_table"):
            still = still[:-3]  # rows that no pair of tokens has
        assert not still.all(dim=-1).any(), name


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        (MDT, {}, "class MDTv2 there and MDT here"),
        (MDTv2, {"hidden_size": 48}, "width of a head 16 there and 24 here"),
        (MDTv2, {"num_classes": 9}, "num_classes 5 there and 9 here"),
        (MDTv2, {"hidden_size": 16, "num_heads": 1}, "hidden_size 32 there and 16 here"),
        (MDTv2, {"depth": 5, "decoder_layers": 1}, "decoder_layers 2 there and 1 here"),
        (MDTv2, {"without": ["long_shortcuts"]}, "without none there and long_shortcuts here"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(family, sizes, message):
    large = trained(family, **sizes)
    before = {name: weight.clone() for name, weight in large.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        grow(trained(MDTv2), large)
    assert all(torch.equal(weight, before[name]) for name, weight in large.state_dict().items())


def test_adapters_do_not_grow():
    """Catches a wider model whose adapters act otherwise, or whose new blocks have one that acts."""
    small, large = (trained(MDTv2, adapters=[[0]], **sizes) for sizes in ({}, {"hidden_size": 48, "num_heads": 3}))
    with pytest.raises(ValueError, match="without adapters: grow it first"):
        grow(small, large)


def test_a_model_without_a_decoder_has_none_to_copy():
    """Catches a KeyError, and a model that is half filled."""
    large = trained(MDTv2)
    before = {name: weight.clone() for name, weight in large.state_dict().items()}
    with pytest.raises(ValueError, match="none to copy"):
        grow(trained(MDTv2, depth=4, decoder_layers=0), large)
    assert all(torch.equal(weight, before[name]) for name, weight in large.state_dict().items())
