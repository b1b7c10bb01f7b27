"""The tuning of a decoder: what the diffusion model draws for it, and that it leaves the latents alone."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdt_core import MDTPipeline, create_model
from mdt_core.autoencoder import decode, encode
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import Run
from mdt_core.weights.hub import open_autoencoder
from train import avatars
from train.autoencoder import decoder, generated, state
from train.autoencoder.config import DecoderConfig
from train.autoencoder.model import grow_decoder, make_output_precise, small_autoencoder
from train.evaluate.samples import labels_of
from train.latents.dataset import Latents
from train.latents.encode import encode as encode_set
from train.latents.images import DrawnImages

STYLES = 3


@pytest.fixture
def pipe() -> MDTPipeline:
    torch.manual_seed(0)
    model = create_model("MDTv2-XS/4", 8, STYLES, in_channels=4)
    return MDTPipeline(model, small_autoencoder(8, 12, 4, 4), id2label=dict(enumerate("abc")), guidance_channels=None)


def test_a_round_trip_keeps_less_of_its_image_the_earlier_it_starts():
    """Catches a round trip that starts at the wrong noise level, and samples that know their picture."""

    def idle_model(x, timesteps, class_labels):
        return torch.zeros(len(x), 8, 8, 8)  # it takes no noise away

    idle_model.num_tokens = 16
    config, settings = SimpleNamespace(guidance_channels=None), SamplingSettings()
    idle = SimpleNamespace(transformer=idle_model, num_classes=STYLES, config=config, sampling_defaults=settings)
    latents, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 0])
    kept = []
    for start in (0, 14, 22):
        drawn = generated.sample_from(idle, latents, labels, first_seed=5, start=start)
        kept.append(torch.corrcoef(torch.stack([drawn.flatten(), latents.flatten()]))[0, 1].item())
    assert abs(kept[0]) < 0.15 < 0.3 < kept[1] < kept[2]


def test_a_model_without_classes_or_with_others_is_drawn_from():
    """Catches a division by no classes, and labels of a set that are given to a model which numbers them otherwise."""
    first, *_ = generated.plan_batches(DecoderConfig(num_samples=3), 4, 0, [500, 100])
    assert first.places.tolist() == [0, 0, 0]
    without, other = (SimpleNamespace(id2label=names, num_classes=len(names)) for names in ({}, {0: "b", 1: "a"}))
    assert labels_of(without, ["a", "b", None]).tolist() == [0, 0, 0]
    assert labels_of(other, ["a", "b", "c"]).tolist() == [1, 0, 2]


def test_a_model_that_draws_by_a_student_is_refused(pipe, tmp_path):
    """Catches latents of the plain model, with too few steps for it."""
    pipe.sampling_defaults = {"distilled": True}
    with pytest.raises(ValueError, match="draws by a student"):
        generated.generate(DecoderConfig(), pipe, None, 1, tmp_path, torch.device("cpu"))


def test_what_is_drawn_does_not_depend_on_its_neighbours(pipe):
    latents, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    both = generated.sample_from(pipe, latents, labels, first_seed=5, start=20)
    second = generated.sample_from(pipe, latents[1:], labels[1:], first_seed=6, start=20)
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4)


def test_only_the_last_layer_stays_float32(pipe):
    """Catches pictures that are learnt a grey level off: bfloat16 has 128 numbers from 0.5 to 1."""
    vae, latents = pipe.vae, torch.randn(2, 4, 8, 8)
    before, names = decode(vae, latents), list(vae.state_dict())
    make_output_precise(vae)
    assert list(vae.state_dict()) == names and torch.equal(decode(vae, latents), before)
    seen = []
    for layer in (vae.decoder.layers[0], vae.decoder.layers[-1]):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        decode(vae, latents).sum().backward()
    assert seen == [torch.bfloat16, torch.float32]
    assert all(weight.grad is not None for weight in vae.decoder.parameters())


def test_a_grown_decoder_gives_the_same_pictures_and_all_of_it_learns(pipe):
    latents = torch.randn(3, 4, 8, 8)
    large = grow_decoder(pipe.vae, 20, 5)
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
        grow_decoder(pipe.vae, 8, None)
    with pytest.raises(ValueError, match="3 blocks of 12 channels"):
        grow_decoder(pipe.vae, None, 2)


def test_a_decoder_of_two_stages_keeps_its_size():
    vae = small_autoencoder(8, 8, 4, 2, (1, 1), (1, 1))
    twin, latents = grow_decoder(vae, None, None), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert twin is not vae and torch.equal(decode(twin, latents), decode(vae, latents))
    with pytest.raises(ValueError, match="only a decoder of one stage can be made larger"):
        grow_decoder(vae, 16, None)


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
    pixels = decoder.images_of(torch.from_numpy(pictures), places, flipped)
    means, _, labels = data.batch(indices.tolist())
    torch.testing.assert_close(encode(pipe.vae, pixels), means, rtol=0, atol=1e-5)
    assert torch.equal(torch.from_numpy(images.split.labels)[places], labels)


def set_up(pipe: MDTPipeline, folder: Path, pictures: torch.Tensor, made_of: dict | None = None) -> list[str]:
    """A pipeline, its pictures in both splits, and latents; what the command needs to be told of them."""
    pipe.save_pretrained(folder / "model")
    labels = np.arange(len(pictures)) % STYLES
    for name in ("train", "validation"):
        split = avatars.Split(pictures.numpy(), labels, np.arange(len(pictures)), tuple("abc"))
        avatars.save(folder / "data", name, split)
    if made_of is None:
        encode_set(DrawnImages(folder / "data", "train"), pipe.vae, folder / "latents", cpu=True)
    else:
        (folder / "latents").mkdir()
        meta = {"id2label": json.dumps(dict(enumerate("abc"))), "made_of": json.dumps(made_of)}
        shard = {"mean": torch.randn(len(pictures), 4, 8, 8), "labels": torch.from_numpy(labels)}
        save_file(shard, folder / "latents" / "train-00000-of-00001.safetensors", metadata=meta)
    settings = [f"{name}={folder / name}" for name in ("model", "data", "latents")]
    return ["avatars", "--output-dir", str(folder / "run"), "--set", *settings]


def noise() -> torch.Tensor:
    return torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)


SHORT = ["num_samples=4", "num_round_trips=4", "sampling_batch_size=4", "batch_size=6", "log_every=1"]


def test_the_second_stage_changes_the_decoder_alone_and_draws_its_latents_once(pipe, tmp_path, monkeypatch, capsys):
    command = [*set_up(pipe, tmp_path, noise(), made_of={}), *SHORT]
    firsts, sample_from = [], generated.sample_from
    monkeypatch.setattr(generated, "sample_from", lambda *args: firsts.append(args[3]) or sample_from(*args))
    monkeypatch.setattr(generated, "tqdm", partial(generated.tqdm, disable=True))  # such a bar does not count
    decoder.main([*command, "steps=2"])
    assert firsts == [10**6, 10**6 + 4]
    tuned = open_autoencoder(tmp_path / "run")
    for part, changed in (("encoder", False), ("decoder", True)):
        pairs = zip(getattr(pipe.vae, part).parameters(), getattr(tuned, part).parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs) is changed
    assert Run(tmp_path / "run").config["num_round_trips"] == 4
    monkeypatch.setattr(generated, "sample_from", None)  # a second call would fail
    decoder.main([*command, "steps=3"])
    assert list(Run(tmp_path / "run").checkpoints) == [2, 3]
    with pytest.raises(SystemExit):
        decoder.main([*command, "steps=3", "seed=1"])
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_drawing_goes_on_where_it_was_interrupted(pipe, tmp_path, monkeypatch):
    """Catches minutes of drawing that a kill loses, and latents that differ for it."""
    command = [*set_up(pipe, tmp_path, noise(), made_of={}), *SHORT, "num_round_trips=8", "steps=1"]
    whole = [*command, "--output-dir", str(tmp_path / "whole")]
    decoder.main(whole)
    sample_from, firsts = generated.sample_from, []

    def interrupted(*args):
        if len(firsts) == 2:
            raise KeyboardInterrupt
        firsts.append(args[3])
        return sample_from(*args)

    monkeypatch.setattr(generated, "sample_from", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoder.main(command)
    monkeypatch.setattr(generated, "sample_from", lambda *args: firsts.append(args[3]) or sample_from(*args))
    decoder.main(command)
    assert firsts == [10**6, 10**6 + 4, 10**6 + 8]
    for file in (tmp_path / "whole" / "generated").iterdir():
        assert load_file(file)["latents"].equal(load_file(tmp_path / "run" / "generated" / file.name)["latents"])


@pytest.mark.slow
def test_an_interrupted_tuning_ends_as_one_that_never_was(pipe, tmp_path, monkeypatch):
    """Asked to stop after its second step of five. Catches weights, a critic or draws that are not those of one run."""
    command = [*set_up(pipe, tmp_path, noise()), *SHORT, "steps=5"]
    whole = Run(tmp_path / "whole")
    decoder.main([*command, "--output-dir", str(whole.folder)])
    run, take = Run(tmp_path / "run"), decoder.DecoderStep.__call__

    def take_and_ask_to_stop(self, number, progress):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, number, progress)

    monkeypatch.setattr(decoder.DecoderStep, "__call__", take_and_ask_to_stop)
    decoder.main(command)
    assert list(run.checkpoints) == [2] and not (run.folder / "vae").exists()
    monkeypatch.undo()
    decoder.main(command)
    assert list(run.checkpoints) == [2, 5]
    for file in (whole.folder / "checkpoints" / "step_00000005").rglob("*.safetensors"):
        ours, theirs = load_file(run.folder / file.relative_to(whole.folder)), load_file(file)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), file.name
    assert all(
        torch.equal(a, b) for a, b in zip(*(open_autoencoder(r.folder).parameters() for r in (run, whole)), strict=True)
    )


def test_without_a_critic_no_samples_are_drawn_and_flat_areas_get_flatter(pipe, tmp_path, monkeypatch):
    """Catches a weight of the differences that is ignored, and minutes spent on samples that nothing is held to."""
    shades = torch.randint(0, 256, (24, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, 32, 32)
    command = set_up(pipe, tmp_path, shades)
    polish = ["critic_weight=0", "difference_weight=4", "learning_rate=1e-2", "ema_decay=0.5", "batch_size=8"]
    monkeypatch.setattr(state, "Adversary", None)  # a step of it would fail
    decoder.main([*command, *polish, "num_round_trips=4", "steps=20"])
    drawn = [path.name for path in (tmp_path / "run" / "generated").iterdir()]
    assert drawn == ["round_trips-1000000.safetensors"]
    latents = Latents(tmp_path / "latents").batch(range(24))[0]
    tuned = open_autoencoder(tmp_path / "run")
    before, after = (decode(vae, latents).diff(dim=3).abs().mean() for vae in (pipe.vae, tuned))
    assert after < before / 2


def test_the_first_images_are_enough(pipe, tmp_path, monkeypatch):
    """Catches a number of images that is not heeded: round trips, encoded images or the critic's of the others."""
    command = [*set_up(pipe, tmp_path, noise()), *SHORT, "num_images=5", "steps=3"]
    asked, batch = [], Latents.batch
    monkeypatch.setattr(Latents, "batch", lambda self, indices: asked.extend(indices) or batch(self, indices))
    decoder.main(command)
    assert set(asked) <= set(range(5)) and len(asked) == 4 + 3 * 2


@pytest.mark.parametrize(
    "made_of, words", [({"encoder": "0" * 16}, "another autoencoder"), ({"source": "0"}, "other images")]
)
def test_latents_of_another_set_or_encoder_are_refused(pipe, tmp_path, made_of, words):
    """Catches pictures that are paired with the latents of others."""
    set_up(pipe, tmp_path, torch.zeros(3, 3, 32, 32, dtype=torch.uint8), made_of)
    where = {name: str(tmp_path / name) for name in ("data", "latents", "model")}
    with pytest.raises(ValueError, match=words):
        decoder.tune_decoder(DecoderConfig(**where), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
