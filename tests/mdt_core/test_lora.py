"""Low-rank additions: what they add, the form of their file, and a pipeline that draws with them or without."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdt_core import MDTPipeline
from mdt_core.lora import LORA_FILE, LoRA, merge_lora
from tests.helpers.tiny import random_lora, tiny_pipeline

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent", "seeds": 5}


@pytest.fixture
def pipe() -> MDTPipeline:
    return tiny_pipeline()


def test_a_layer_adds_b_a_x_to_what_it_gave(pipe):
    lora = random_lora(pipe.transformer)
    merged = merge_lora(pipe.transformer, lora)
    x = torch.randn(3, 32)
    for name, down, up in zip(lora.names, lora.down, lora.up, strict=True):
        layer = pipe.transformer.get_submodule(name)
        if layer.in_features == 32:
            want = layer(x) + x @ down.T @ up.T
            torch.testing.assert_close(merged.get_submodule(name)(x), want, rtol=1e-5, atol=1e-5)
    fresh = LoRA(pipe.transformer, lora.names, rank=2)
    for name, weight in merge_lora(pipe.transformer, fresh).state_dict().items():
        assert torch.equal(weight, pipe.transformer.state_dict()[name]), "an addition that nobody trained is nothing"


def test_the_file_is_as_diffusers_and_peft_name_things(pipe, tmp_path):
    lora = random_lora(pipe.transformer)
    lora.save(tmp_path / LORA_FILE)
    tensors = load_file(tmp_path / LORA_FILE)
    name = lora.names[-1]
    layer = pipe.transformer.get_submodule(name)
    assert tensors[f"transformer.{name}.lora_A.weight"].shape == (2, layer.in_features)
    assert tensors[f"transformer.{name}.lora_B.weight"].shape == (layer.out_features, 2)
    read = LoRA.load(tmp_path / LORA_FILE, pipe.transformer)
    assert {n: w.tolist() for n, w in read.weights(pipe.transformer).items()} == {
        n: w.tolist() for n, w in lora.weights(pipe.transformer).items()
    }


def test_a_pipeline_draws_with_it_where_it_is_asked_to_and_saves_it(pipe, tmp_path):
    """Catches weights that are moved for good, an addition that stays behind, and options that hold for one alone."""
    plain = pipe("dog", **SETTINGS).images
    with pytest.raises(ValueError, match="no distilled weights"):
        pipe("dog", distilled=True, **SETTINGS)
    random_lora(pipe.transformer).save(tmp_path / "file.safetensors")
    pipe.load_lora_weights(tmp_path / "file.safetensors")
    drawn = pipe("dog", distilled=True, **SETTINGS)
    assert drawn.settings.distilled and "distilled" in drawn.settings.in_words
    by_hand = MDTPipeline(merge_lora(pipe.transformer, pipe.lora), pipe.vae, guidance_channels=None)
    assert torch.equal(drawn.images, by_hand(1, **SETTINGS).images)
    assert torch.equal(pipe("dog", **SETTINGS).images, plain) and not torch.equal(drawn.images, plain)

    pipe.save_pretrained(tmp_path / "model")
    again = MDTPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(again("dog", distilled=True, **SETTINGS).images, drawn.images)
    lowered = again.optimize(dtype="bfloat16")("dog", distilled=True, **SETTINGS).images
    assert not torch.equal(lowered, drawn.images)
    torch.testing.assert_close(lowered, drawn.images, rtol=0, atol=0.1 * drawn.images.std().item())

    other = random_lora(pipe.transformer, seed=1)
    other.save(tmp_path / LORA_FILE)
    pipe.load_lora_weights(tmp_path)
    assert not torch.equal(pipe("dog", distilled=True, **SETTINGS).images, drawn.images)


def test_another_addition_in_its_place_is_the_one_that_draws(pipe):
    """Catches weights merged with the first one, and kept."""
    drawn = []
    for seed in (0, 1, 0):
        pipe.lora = random_lora(pipe.transformer, seed)
        drawn.append(pipe("dog", distilled=True, **SETTINGS).images)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_it_follows_the_models_weights(pipe):
    """Catches pictures of the weights that the model had when it first drew with the addition."""
    pipe.lora = random_lora(pipe.transformer)
    before = pipe("dog", distilled=True, **SETTINGS).images
    with torch.no_grad():
        for weight in pipe.transformer.parameters():
            weight.mul_(0.5)
    assert not torch.equal(pipe("dog", distilled=True, **SETTINGS).images, before)


def test_a_folder_that_is_written_over_keeps_no_addition(pipe, tmp_path):
    """Catches one of another model that draws from then on, or that keeps the folder from being opened."""
    random_lora(pipe.transformer).save(tmp_path / LORA_FILE)
    pipe.save_pretrained(tmp_path)
    assert MDTPipeline.from_pretrained(tmp_path).lora is None


def test_inpainting_takes_it_too(pipe):
    pipe.lora = random_lora(pipe.transformer)
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    asked = {"num_inference_steps": 2, "seeds": 3}
    pictures = [pipe.inpaint(image, mask, "dog", distilled=on, **asked).images[0] for on in (False, True)]
    assert pictures[0].tobytes() != pictures[1].tobytes()


@pytest.mark.parametrize("harm", ["no file", "cut short", "half of a pair", "another model's", "not finite", "empty"])
def test_what_is_no_addition_to_this_model_is_refused_in_one_sentence(pipe, tmp_path, harm):
    path = tmp_path / LORA_FILE
    random_lora(pipe.transformer).save(path)
    tensors = load_file(path)
    name = next(iter(tensors))
    match harm:
        case "no file":
            path.unlink()
        case "cut short":
            path.write_bytes(path.read_bytes()[:-10])
        case "half of a pair":
            del tensors[name]
        case "another model's":
            tensors[name] = torch.zeros(2, 7)
        case "not finite":
            tensors[name][0] = torch.nan
        case "empty":
            tensors = {}
    if harm not in ("no file", "cut short"):
        save_file(tensors, path)
    with pytest.raises(ValueError, match=LORA_FILE.replace(".", r"\.")) as refused:
        pipe.load_lora_weights(tmp_path)
    assert "\n" not in str(refused.value) and pipe.lora is None
