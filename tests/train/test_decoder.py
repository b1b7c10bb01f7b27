"""The decoder's second stage: what its drafts are, and that it leaves the latents alone."""

import json
import sys
from argparse import Namespace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdt_core import MDTPipeline, create_model
from mdt_core.autoencoder import decode, encode
from train import avatars
from train.autoencoder import decoder
from train.autoencoder.model import small_autoencoder
from train.latents.dataset import Latents
from train.latents.encode import encode as encode_set
from train.latents.images import DrawnImages

STYLES = 3


@pytest.fixture
def pipe() -> MDTPipeline:
    torch.manual_seed(0)
    model = create_model("MDTv2-XS/4", 8, STYLES, in_channels=4)
    return MDTPipeline(model, small_autoencoder(8, 12, 4, 4), id2label=dict(enumerate("abc")), guidance_channels=None)


def test_a_draft_keeps_less_of_its_picture_the_earlier_it_starts():
    """Catches a round trip that starts at the wrong noise level, and samples that know their picture."""
    idle = SimpleNamespace(
        transformer=lambda x, timesteps, class_labels: torch.zeros(len(x), 8, 8, 8),  # it takes no noise away
        num_classes=STYLES,
        config=SimpleNamespace(guidance_channels=None),
    )
    latents, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 0])
    kept = []
    for start in (0, 14, 22):
        draft = decoder.draw_drafts(idle, latents, labels, first_seed=5, start=start)
        kept.append(torch.corrcoef(torch.stack([draft.flatten(), latents.flatten()]))[0, 1].item())
    assert abs(kept[0]) < 0.15 < 0.3 < kept[1] < kept[2]


def test_a_draft_does_not_depend_on_its_neighbours(pipe):
    latents, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    both = decoder.draw_drafts(pipe, latents, labels, first_seed=5, start=20)
    second = decoder.draw_drafts(pipe, latents[1:], labels[1:], first_seed=6, start=20)
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4)


def test_a_grown_decoder_gives_the_same_pictures_and_all_of_it_learns(pipe):
    latents = torch.randn(3, 4, 8, 8)
    large = decoder.grown(pipe.vae, 20, 5)
    with torch.no_grad():
        torch.testing.assert_close(decode(large, latents), decode(pipe.vae, latents), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            encode(large, latents.new_ones(1, 3, 32, 32)), encode(pipe.vae, latents.new_ones(1, 3, 32, 32))
        )
    optimizer = torch.optim.SGD(large.decoder.parameters(), lr=0.1)
    before = [p.clone() for p in large.decoder.parameters()]
    for _ in range(3):  # a weight behind zeros moves once those have
        decode(large, latents).square().mean().backward()
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, large.decoder.parameters(), strict=True)]
    assert all(moved)


def test_a_decoder_is_not_cut_by_growing_it(pipe):
    with pytest.raises(ValueError, match="3 blocks of 12 channels"):
        decoder.grown(pipe.vae, 8, None)
    with pytest.raises(ValueError, match="3 blocks of 12 channels"):
        decoder.grown(pipe.vae, None, 2)


def test_a_decoder_of_two_stages_keeps_its_size():
    vae = small_autoencoder(8, 8, 4, 2, (1, 1), (1, 1))
    twin, latents = decoder.grown(vae, None, None), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert twin is not vae and torch.equal(decode(twin, latents), decode(vae, latents))
    with pytest.raises(ValueError, match="only a decoder of one stage can be made larger"):
        decoder.grown(vae, 16, None)


def test_pictures_are_those_that_the_latents_were_made_of(pipe, tmp_path):
    """Catches mirror images held to the picture itself, and indices of a balanced set taken for images."""
    pictures = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8).numpy()
    avatars.save(tmp_path, "train", avatars.Split(pictures, np.arange(12) // 8, np.arange(12), ("cat", "dog")))
    images, out = DrawnImages(tmp_path, "train"), tmp_path / "latents"
    encode_set(images, pipe.vae, out, mirror=True, balance=1.0, cpu=True)
    data = Latents(out)
    indices = torch.randperm(len(data))
    assert len(data) == 2 * (8 + 8)  # each dog twice, and all of it mirrored
    places, flipped = (torch.as_tensor(each) for each in data.sources(indices.numpy()))
    pixels = decoder.pictures_of(torch.from_numpy(pictures), places, flipped)
    means, _, labels = data.batch(indices.tolist())
    torch.testing.assert_close(encode(pipe.vae, pixels), means, rtol=0, atol=1e-5)
    assert torch.equal(torch.from_numpy(images.split.labels)[places], labels)


def test_the_second_stage_changes_the_decoder_alone_and_goes_on_from_its_drafts(pipe, tmp_path, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path / "model")
    pictures = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(24) % STYLES
    split = avatars.Split(pictures.numpy(), labels.numpy(), labels.numpy())
    for name in ("train", "validation"):
        avatars.save(tmp_path / "data", name, split)
    shard = {"mean": torch.randn(24, 4, 8, 8), "std": torch.zeros(24, 4, 8, 8), "labels": labels}
    (tmp_path / "latents").mkdir()
    names = {"id2label": json.dumps(dict(enumerate("abc")))}
    save_file(shard, tmp_path / "latents" / "train-00000-of-00001.safetensors", metadata=names)
    command = (
        f"decoder --model {tmp_path}/model --data {tmp_path}/data --latents {tmp_path}/latents --out {tmp_path}/out"
    )
    sizes = "--num-samples 4 --num-trips 4 --draft-batch 4 --steps 2 --batch-size 6 --log-every 1"
    monkeypatch.setattr(sys, "argv", f"{command} {sizes}".split())
    firsts, draw_drafts = [], decoder.draw_drafts
    monkeypatch.setattr(decoder, "draw_drafts", lambda *args: firsts.append(args[3]) or draw_drafts(*args))
    monkeypatch.setattr(decoder, "tqdm", partial(decoder.tqdm, disable=True))  # such a bar does not count
    decoder.main()
    assert firsts == [10**6, 10**6 + 4]
    tuned = type(pipe.vae).from_pretrained(tmp_path / "out")
    for part, changed in (("encoder", False), ("decoder", True)):
        pairs = zip(getattr(pipe.vae, part).parameters(), getattr(tuned, part).parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs) is changed
    monkeypatch.setattr(decoder, "draw_drafts", None)  # a second call would fail
    decoder.main()
    monkeypatch.setattr(sys, "argv", f"{command} {sizes} --seed 1".split())
    with pytest.raises(SystemExit):
        decoder.main()
    assert "other settings" in capsys.readouterr().err


def test_without_a_critic_no_samples_are_drawn_and_flat_areas_get_flatter(pipe, tmp_path, monkeypatch):
    """Catches a weight of the differences that is ignored, and minutes spent on samples that nothing is held to."""
    pipe.save_pretrained(tmp_path / "model")
    shades = torch.randint(0, 256, (24, 3, 1, 1), dtype=torch.uint8)
    split = avatars.Split(shades.expand(-1, -1, 32, 32).numpy(), np.arange(24) % STYLES, np.arange(24))
    for name in ("train", "validation"):
        avatars.save(tmp_path / "data", name, split)
    encode_set(DrawnImages(tmp_path / "data", "train"), pipe.vae, tmp_path / "latents", cpu=True)
    command = (
        f"decoder --model {tmp_path}/model --data {tmp_path}/data --latents {tmp_path}/latents --out {tmp_path}/out "
        "--num-trips 4 --steps 20 --batch-size 8 --lr 1e-2 --ema 0.5 --critic-weight 0 --differences 4"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(decoder, "Adversary", None)  # a step of it would fail
    decoder.main()
    assert len(load_file(tmp_path / "out" / "drafts.safetensors")["samples"]) == 0
    latents = Latents(tmp_path / "latents").batch(range(24))[0]
    tuned = type(pipe.vae).from_pretrained(tmp_path / "out")
    before, after = (decode(vae, latents).diff(dim=3).abs().mean() for vae in (pipe.vae, tuned))
    assert after < before / 2


@pytest.mark.parametrize(
    "made_of, words", [({"encoder": "0" * 16}, "another autoencoder"), ({"source": "0"}, "other pi")]
)
def test_latents_of_another_set_or_encoder_are_refused(pipe, tmp_path, made_of, words):
    """Catches pictures that are paired with the latents of others."""
    pipe.save_pretrained(tmp_path / "model")
    pictures = np.zeros((3, 3, 32, 32), np.uint8)
    avatars.save(tmp_path / "data", "train", avatars.Split(pictures, np.arange(3), np.arange(3)))
    (tmp_path / "latents").mkdir()
    meta = {"id2label": json.dumps(dict(enumerate("abc"))), "made_of": json.dumps(made_of)}
    shard = {"mean": torch.zeros(3, 4, 8, 8), "labels": torch.arange(3)}
    save_file(shard, tmp_path / "latents" / "train-00000-of-00001.safetensors", metadata=meta)
    where = {name: tmp_path / name for name in ("data", "latents", "out", "model")}
    with pytest.raises(ValueError, match=words):
        decoder.tune(Namespace(**where | {"model": str(where["model"])}, seed=0))
