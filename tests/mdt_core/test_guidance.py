"""Guidance against its closed form, on a model whose answer spells out what it was asked."""

import math

import pytest
import torch

from mdt_core.guidance import Guidance, guidance_weight, guide, weak_keep
from mdt_core.masking import mask_noise

NULL = 10


class Recorder:
    """A model that answers (label + 1) * (channel + 1) everywhere and keeps its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, timesteps, class_labels, keep=None):
        self.calls.append((len(x), timesteps.tolist(), class_labels.tolist(), keep))
        channels = torch.arange(1.0, 2 * x.shape[1] + 1)[None, :, None, None]
        return (class_labels + 1.0)[:, None, None, None] * channels * torch.ones_like(x[:, :1])


def guided(labels, **changes):
    settings = {"null_class": NULL, "guidance_scale": 3.8, "guidance_power": 4.0} | changes
    model = Recorder()
    return model, guide(model, torch.tensor(labels), **settings)


@pytest.mark.parametrize("t", [0, 40, 500, 999])
def test_weight_is_the_published_formula(t):
    """Catches the printed formula, which runs t the other way and has no floor of 1."""
    expected = 1 + 2.8 * (1 - math.cos(math.pi * (1 - t / 1000) ** 4)) / 2
    assert guidance_weight(t, 3.8, 4.0).item() == pytest.approx(expected, rel=1e-12)


def test_weight_falls_from_the_scale_to_one():
    weight = guidance_weight(torch.arange(1000), 3.8, 4.0)
    assert weight[0] == pytest.approx(3.8)
    assert weight[-1] == pytest.approx(1.0, abs=1e-9)
    assert (weight.diff() <= 0).all()


def test_power_zero_is_constant():
    assert guidance_weight(torch.arange(1000), 2.5, 0.0).tolist() == pytest.approx([2.5] * 1000)


@pytest.mark.parametrize(("guidance_channels", "touched"), [(3, 3), (None, 4), (9, 4)])
def test_guided_channels(guidance_channels, touched):
    """Only those epsilon channels move; catches guidance that reaches the variance channels."""
    _, denoise = guided([3, 7], guidance_channels=guidance_channels)
    output = denoise(torch.zeros(2, 4, 2, 2), 40)
    w = guidance_weight(40, 3.8, 4.0).item()
    for row, label in enumerate([3, 7]):
        for channel in range(8):
            conditional, unconditional = (label + 1) * (channel + 1), (NULL + 1) * (channel + 1)
            expected = unconditional + w * (conditional - unconditional) if channel < touched else conditional
            assert output[row, channel].unique().item() == pytest.approx(expected, rel=1e-5)


def test_both_branches_run_in_one_call():
    model, denoise = guided([3, 7])
    denoise(torch.zeros(2, 4, 2, 2), 40)
    assert model.calls == [(4, [40] * 4, [3, 7, NULL, NULL], None)]
    assert (denoise.evaluations, denoise.skipped) == (2, 0)


def test_unconditional_branch_is_skipped_where_the_weight_is_near_one():
    """Half the batch is asked, and the difference stays under the tolerance; catches a call that pays all the same."""
    model, denoise = guided([3], guidance_channels=None)
    _, exact = guided([3], guidance_channels=None, skip_tolerance=0)
    x = torch.zeros(1, 4, 2, 2)
    relative = (denoise(x, 700) - exact(x, 700)).abs() / (NULL - 3) / torch.arange(1.0, 9)[:, None, None]
    assert model.calls == [(1, [700], [3], None)]
    assert (denoise.evaluations, denoise.skipped) == (1, 1)
    assert (exact.evaluations, exact.skipped) == (2, 0)
    assert 0 < relative.max() < 1e-2


def test_share_that_is_skipped():
    """Scale 3.8, power 4, 50 steps: 22% of the evaluations, as measured on the published code; power 0.01: none."""
    for power, share in [(4.0, 0.22), (0.01, 0.0)]:
        _, denoise = guided([3], guidance_power=power)
        for t in range(0, 1000, 20):
            denoise(torch.zeros(1, 1, 1, 1), t)
        assert denoise.skipped / (denoise.evaluations + denoise.skipped) == pytest.approx(share, abs=0.005)


def test_zero_tolerance_never_skips():
    _, denoise = guided([3], guidance_scale=1.0, skip_tolerance=0)
    denoise(torch.zeros(1, 1, 1, 1), 999)
    assert denoise.skipped == 0


def test_null_labels_get_no_guidance():
    """Beside a class: unchanged, as its branches agree. A batch of nothing else: the second branch is not run."""
    _, mixed = guided([3, NULL])
    assert mixed(torch.zeros(2, 4, 2, 2), 40)[1, 0].unique().item() == NULL + 1
    model, alone = guided([NULL, NULL])
    alone(torch.zeros(2, 4, 2, 2), 40)
    assert model.calls == [(2, [40, 40], [NULL, NULL], None)]
    assert (alone.evaluations, alone.skipped) == (1, 0)


def test_keep_reaches_both_branches():
    """The masked pass at inference: the unconditional branch has to see the same tokens."""
    model, denoise = guided([3, 7])
    keep = torch.tensor([[0, 2], [1, 3]])
    denoise(torch.zeros(2, 4, 2, 2), 40, keep=keep)
    denoise(torch.zeros(2, 4, 2, 2), 999, keep=keep)
    assert model.calls[0][3].tolist() == [[0, 2], [1, 3]] * 2
    assert model.calls[1][3].tolist() == [[0, 2], [1, 3]]


def test_the_weak_branch_lacks_what_the_kind_says():
    """Catches a weak branch that is told the class, or sees the whole picture, where it should not."""
    x, t = torch.zeros(2, 4, 2, 2), 40
    for kind, weak_labels in [("mask", [3, 7]), ("both", [NULL, NULL])]:
        model, denoise = guided([3, 7], guidance_kind=kind, mask_noise=mask_noise([0, 1], 16))
        denoise(x, t)
        (_, _, strong, nothing_kept), (_, _, weak, keep) = model.calls
        assert (strong, nothing_kept, weak) == ([3, 7], None, weak_labels)
        assert keep.shape == (2, 8) and keep[0].tolist() != keep[1].tolist()
        assert (denoise.evaluations, denoise.skipped) == (2, 0)
        denoise(x, 999)  # the weight is 1
        assert len(model.calls) == 3 and (denoise.evaluations, denoise.skipped) == (3, 1)
    _, both = guided([3], guidance_kind="both", guidance_channels=None, mask_noise=mask_noise([0], 16))
    _, by_class = guided([3], guidance_channels=None)
    assert torch.equal(both(x[:1], t), by_class(x[:1], t))  # the recorder answers by the label alone


def test_images_of_no_class_are_guided_by_a_mask():
    model, denoise = guided([NULL], guidance_kind="mask", mask_noise=mask_noise([0], 16))
    denoise(torch.zeros(1, 4, 2, 2), 40)
    assert len(model.calls) == 2


def test_a_weak_branch_sees_fewer_of_the_tokens_that_the_strong_one_sees():
    """Inpainting's masked pass: catches a weak branch that is shown what the strong one must not see."""
    noise, keep = mask_noise([0, 1], 16)(), torch.tensor([[1, 3, 5, 7], [0, 2, 4, 6]])
    weak = weak_keep(noise, keep)
    assert weak.shape == (2, 2)
    assert all(set(few) < set(all_of) for few, all_of in zip(weak.tolist(), keep.tolist(), strict=True))
    assert weak_keep(noise, None).shape == (2, 8)
    assert weak_keep(noise, keep[:, :1]).tolist() == keep[:, :1].tolist()  # never none


def test_masks_are_drawn_for_each_picture_and_call():
    """Catches masks that depend on the neighbours, repeat from step to step, or follow the picture's noise."""
    batch, alone = mask_noise([5, 6], 16), mask_noise([6], 16)
    first = batch(), alone()
    assert torch.equal(first[0][1], first[1][0])
    assert torch.equal(batch()[1], alone()[0]) and not torch.equal(first[1], alone())
    assert not torch.equal(first[1][0], torch.rand(16, generator=torch.Generator().manual_seed(6)))


def test_outside_of_the_interval_a_step_takes_one_evaluation():
    """Catches an end that is left out, and a weak branch that is paid for and thrown away."""
    settings = {"guidance_power": 0.0, "guidance_low": 200, "guidance_high": 700}
    _, denoise = guided([3], skip_tolerance=0, guidance_channels=None, **settings)
    x = torch.zeros(1, 4, 2, 2)
    inside = [denoise(x, t)[0, 0, 0, 0].item() for t in (200, 700)]
    assert (denoise.evaluations, denoise.skipped) == (4, 0)
    outside = [denoise(x, t)[0, 0, 0, 0].item() for t in (199, 701)]
    assert (denoise.evaluations, denoise.skipped) == (6, 2)
    assert outside == [4.0, 4.0] and inside == pytest.approx([NULL + 1 + 3.8 * (3 - NULL)] * 2)
    assert denoise(x, 500, guided=False)[0, 0, 0, 0].item() == 4.0
    assert (denoise.evaluations, denoise.skipped) == (7, 2)  # nobody asked for the other branch
    guidance = Guidance(3.8, **settings)
    assert [guidance.weight(t) for t in (199, 200, 700, 701)] == pytest.approx([1, 3.8, 3.8, 1])
    assert [guidance.is_on(t, 0) for t in (199, 200, 700, 701)] == [False, True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance_scale": -1.0},
        {"guidance_scale": math.nan},
        {"guidance_power": -0.1},
        {"guidance_power": math.inf},
        {"guidance_kind": "classes"},
        {"guidance_kind": ["class"]},
        {"guidance_low": -1},
        {"guidance_low": 200.0},
        {"guidance_high": 1000},
        {"guidance_low": 700, "guidance_high": 699},
        {"guidance_kind": "mask"},  # without draws for the mask
        {"guidance_channels": 0},
        {"skip_tolerance": -1e-3},
    ],
)
def test_bad_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        guided([3], **wrong)
