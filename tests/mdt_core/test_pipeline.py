"""The pipeline: one seed per image, every step to be seen, saved and opened whole, wrong calls named."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mdt_core import DiT, MDTPipeline
from mdt_core.pipeline.image_arrays import mask_array
from mdt_core.presets import DEFAULT_VAE
from mdt_core.samplers import generators, initial_latents
from tests.helpers.tiny import tiny_pipeline

SETTINGS = {"num_inference_steps": 4}


@pytest.fixture(scope="module")
def pipe() -> MDTPipeline:
    return tiny_pipeline()


def difference(a, b) -> int:
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.mark.parametrize("kind", ["mask", "both"])
def test_guided_by_a_mask_a_picture_is_the_same_alone_and_in_a_batch(pipe, kind):
    """Catches masks that are drawn for the batch, and guidance that does nothing, or the same for both kinds."""
    settings = {"guidance_kind": kind, "output_type": "latent"} | SETTINGS
    alone = pipe("dog", seeds=7, **settings).images
    among = pipe(["cat", "dog"], seeds=[3, 7], **settings).images
    torch.testing.assert_close(among[1], alone[0], rtol=0, atol=1e-4 * alone.std().item())
    other = {"mask": "both", "both": "mask"}[kind]
    for different in ("class", other):
        images = pipe("dog", seeds=7, **settings | {"guidance_kind": different}).images
        assert (images - alone).abs().max() > 1e-3


def test_an_interval_saves_evaluations(pipe):
    """Catches an interval that reaches neither the guidance nor the count."""
    run = partial(pipe, "cat", seeds=0, num_inference_steps=10, guidance_power=0.0, output_type="latent")
    whole, part = run(), run(guidance_low=250, guidance_high=750)
    assert (whole.evaluations, part.evaluations, part.skipped) == (20, 15, 5)
    assert (whole.images - part.images).abs().max() > 1e-3


def test_a_model_without_masked_pass_refuses_guidance_by_it(pipe):
    dit = DiT(sample_size=8, in_channels=8, patch_size=2, hidden_size=32, depth=4, num_heads=2, num_classes=3)
    with pytest.raises(ValueError, match='guidance_kind "mask" takes a masked pass, which this model lacks'):
        MDTPipeline(dit, pipe.vae)("0", seeds=0, guidance_kind="mask")


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ddpm"])
def test_a_picture_depends_on_its_seed_alone(pipe, sampler):
    """Catches noise drawn for the batch: alone, in a batch of 8 and beside other seeds it is the same picture."""
    alone = pipe("dog", seeds=7, sampler=sampler, output_type="latent", **SETTINGS).images
    among = pipe("dog", seeds=[1, 7, 3, 4, 5, 6, 8, 9], sampler=sampler, output_type="latent", **SETTINGS).images
    moved = pipe([0, 2, "dog"], seeds=[5, 6, 7], sampler=sampler, output_type="latent", **SETTINGS).images
    tolerance = 1e-4 * alone.std().item()  # of random weights, latents are hundreds
    torch.testing.assert_close(among[1], alone[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(moved[2], alone[0], rtol=0, atol=tolerance)
    assert (among[0] - alone[0]).abs().max() > 0.1
    other = pipe("cat", seeds=7, sampler=sampler, output_type="latent", **SETTINGS).images
    assert (other - alone).abs().max() > 1e-3  # and on its class


def test_every_step_comes_with_a_preview_and_the_last_with_the_pictures(pipe):
    steps = list(pipe.stream(["cat", None], seeds=[1, 2], **SETTINGS))
    assert [step.index for step in steps] == [0, 1, 2, 3] and steps[0].total == 4
    assert [step.images is None for step in steps] == [True, True, True, False]
    assert all(len(step.preview) == 2 and step.preview[0].size == (32, 32) for step in steps)
    assert difference(steps[0].preview[0], steps[0].noisy_preview[0]) > 0
    assert difference(steps[-1].images[0], pipe("cat", seeds=1, **SETTINGS).images[0]) <= 1


@pytest.mark.parametrize("sampler", ["dpm++", "ddpm"])
def test_a_seeds_own_latents_change_nothing(pipe, sampler):
    """Catches a sampler's first noise that is the latents over again."""
    latents = initial_latents(generators([5]), pipe.latent_shape)
    given = pipe("cat", seeds=5, latents=latents, sampler=sampler, output_type="latent", **SETTINGS).images
    assert torch.equal(given, pipe("cat", seeds=5, sampler=sampler, output_type="latent", **SETTINGS).images)


def test_latents_may_be_given(pipe):
    latents = torch.randn(1, 8, 8, 8)
    a, b = (pipe("cat", seeds=seed, latents=latents, output_type="latent", **SETTINGS).images for seed in (1, 2))
    assert torch.equal(a, b)


def test_saved_and_opened_again_it_makes_the_same_picture(pipe, tmp_path):
    """Catches class names, preview or guided channels that are not saved."""
    pipe.fit_preview()
    pipe.save_pretrained(tmp_path)
    again = MDTPipeline.from_pretrained(tmp_path)
    assert again.id2label == {0: "cat", 1: "dog", 2: "sea lion"}
    assert again.config.guidance_channels is None
    assert difference(again("dog", seeds=3, **SETTINGS).images[0], pipe("dog", seeds=3, **SETTINGS).images[0]) == 0
    step, again_step = (next(p.stream("dog", seeds=3, **SETTINGS)) for p in (pipe, again))
    assert difference(step.preview[0], again_step.preview[0]) == 0


def test_a_damaged_folder_is_refused_in_one_sentence(pipe, tmp_path):
    """Catches weights that stay without storage, parts that are dropped without a word, and errors of other kinds."""
    pipe.save_pretrained(tmp_path / "whole")
    transformer = "transformer/diffusion_pytorch_model.safetensors"

    def without_a_weight(folder):
        weights = load_file(folder / transformer)
        weights.pop("x_embedder.proj.bias")
        save_file(weights, folder / transformer, metadata={"format": "pt"})

    def without_a_part(folder):
        config = json.loads((folder / "transformer/config.json").read_text())
        (folder / "transformer/config.json").write_text(json.dumps(config | {"without": ["relative_bias"]}))

    def cut(name):
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:99])

    harms = [without_a_weight, without_a_part, cut(transformer), cut("vae/diffusion_pytorch_model.safetensors")]
    harms += [lambda folder: (folder / "model_index.json").write_text("[1]"), cut("vae/config.json")]
    for number, harm in enumerate(harms):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        harm(folder)
        with pytest.raises(ValueError, match=f"{folder}.* cannot be opened: ") as error:
            MDTPipeline.from_pretrained(folder)
        assert "\n" not in str(error.value)


def test_a_published_file_takes_an_autoencoder_and_nothing_foreign(pipe, tmp_path):
    """Catches arguments that are dropped, and a download of an autoencoder that was given."""
    path = tmp_path / "mdt_v2.safetensors"
    save_file(pipe.transformer.state_dict(), path)
    assert MDTPipeline.from_pretrained(path, vae=pipe.vae).vae is pipe.vae
    with pytest.raises(ValueError, match="without torch_dtype"):
        MDTPipeline.from_pretrained(path, vae=pipe.vae, torch_dtype=torch.float16)


def test_a_published_file_takes_an_autoencoder_of_either_class(pipe, tmp_path):
    """Catches one opened as a class that it is not of, whose weights then have no numbers."""
    path, vae = tmp_path / "mdt_v2.safetensors", tmp_path / "vae"
    save_file(pipe.transformer.state_dict(), path)
    pipe.vae.save_pretrained(vae)
    again = MDTPipeline.from_pretrained(path, vae=vae)
    assert type(again.vae) is type(pipe.vae)
    assert difference(again(1, seeds=3, **SETTINGS).images[0], pipe(1, seeds=3, **SETTINGS).images[0]) <= 1  # rounding
    pipe.save_pretrained(tmp_path / "pipeline")  # whose autoencoder is in vae/, as that of a training run
    assert MDTPipeline.from_pretrained(path, vae=tmp_path / "pipeline").vae.config.latent_channels == 8
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    save_file(dict(list(weights.items())[1:]), vae / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=f"the autoencoder {vae} cannot be opened: it lacks "):
        MDTPipeline.from_pretrained(path, vae=vae)
    pipe.transformer.save_pretrained(vae)
    with pytest.raises(ValueError, match="it holds a MDTv2; AutoencoderKL or AutoencoderTiny is needed"):
        MDTPipeline.from_pretrained(path, vae=vae)


def test_the_autoencoder_is_asked_of_the_hub_as_the_model_is(pipe, tmp_path, monkeypatch):
    """Catches a request to the network with local_files_only, and a cache that the model alone is looked for in."""
    save_file(pipe.transformer.state_dict(), tmp_path / "mdt_v2.safetensors")
    asked = []

    def download(repository, patterns, **hub):
        asked.append((repository, hub))
        return tmp_path

    monkeypatch.setattr("mdt_core.weights.hub.download", download)
    pipe.vae.save_pretrained(tmp_path)
    hub = {"cache_dir": "elsewhere", "local_files_only": True}
    MDTPipeline.from_pretrained("some/model/mdt_v2.safetensors", revision="two", **hub)
    assert asked == [("some/model", hub | {"revision": "two"}), (DEFAULT_VAE, hub)]


def test_a_pipeline_that_was_opened_in_inference_mode_draws(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with torch.inference_mode():
        again = MDTPipeline.from_pretrained(tmp_path)
        image = again("dog", seeds=3, **SETTINGS).images[0]
    assert difference(image, pipe("dog", seeds=3, **SETTINGS).images[0]) == 0


def test_a_fitted_preview_is_the_one_that_is_shown(pipe):
    """Catches a preview that stays what it was when it was first shown."""
    first = next(pipe.stream("cat", seeds=1, **SETTINGS)).preview[0]
    pipe.fit_preview(torch.zeros(1, *pipe.latent_shape))
    flat = next(pipe.stream("cat", seeds=1, **SETTINGS)).preview[0]
    pipe.fit_preview()
    assert difference(first, flat) > 0
    assert difference(first, next(pipe.stream("cat", seeds=1, **SETTINGS)).preview[0]) == 0


def test_a_class_may_be_called_by_a_number(pipe, monkeypatch):
    """Folders 0, 1, 10 and 2 are numbered in the order of their names. Catches the class of that index instead."""
    monkeypatch.setattr(pipe, "id2label", {0: "0", 1: "10", 2: "2"})
    assert [pipe.class_index(label) for label in ("10", "2", "1", 2)] == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="no class is called '²'"):
        pipe.class_index("²")


def test_class_names_that_differ_by_case_are_told_apart(pipe, monkeypatch):
    """Catches the last of them taken for all, without a word, and an é of one character that is not one of two."""
    monkeypatch.setattr(pipe, "id2label", {0: "A", 1: "a", 2: "Cafe\u0301"})
    assert [pipe.class_index(label) for label in ("A", "a", "caf\u00e9", "CAF\u00c9")] == [0, 1, 2, 2]
    monkeypatch.setattr(pipe, "id2label", {0: "Cat", 1: "CAT", 2: "crane", 3: "crane"})
    with pytest.raises(ValueError, match=r"meant by 'cat': choose 0 \(Cat\) or 1 \(CAT\) by its index"):
        pipe.class_index("cat")
    with pytest.raises(ValueError, match=r"choose 2 \(crane\) or 3 \(crane\)"):
        pipe.class_index("crane")


def test_labels_and_seeds_may_be_arrays(pipe):
    settings = {"output_type": "latent"} | SETTINGS
    ours = pipe(np.array([0, 1]), seeds=np.arange(2), **settings)
    assert ours.seeds == [0, 1] and torch.equal(ours.images, pipe([0, 1], seeds=[0, 1], **settings).images)


def test_skipping_is_reported_and_small(pipe):
    """With power 4 the weight is near 1 in the early steps: they need no unconditional evaluation."""
    full = pipe("cat", seeds=0, num_inference_steps=20, skip_tolerance=0.0, output_type="latent")
    fast = pipe("cat", seeds=0, num_inference_steps=20, output_type="latent")
    assert full.evaluations == 40 and full.skipped == 0
    assert fast.skipped > 5 and fast.evaluations == 40 - fast.skipped
    assert (full.images - fast.images).abs().max() < 0.05


def test_seeds_are_drawn_and_told(pipe):
    output = pipe(["cat", "dog"], **SETTINGS)
    assert len(set(output.seeds)) == 2
    again = pipe(["cat", "dog"], seeds=output.seeds, **SETTINGS)
    assert difference(again.images[1], output.images[1]) == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"class_labels": [3]}, "0 to 2"),
        ({"class_labels": ["-1"]}, "0 to 2"),
        ({"class_labels": ["sea lions"]}, "sea lion"),
        ({"class_labels": []}, "empty"),
        ({"seeds": []}, "empty"),
        ({"guidance_channels": "all"}, "guidance_channels"),
        ({"class_labels": [0, 1, 2], "seeds": [1, 2]}, "one per image"),
        ({"seeds": [-1]}, "seed"),
        ({"seeds": [1.5]}, "a seed must be a whole number, not 1.5"),
        ({"class_labels": [1.7]}, "a class must be a whole number, not 1.7"),
        ({"num_inference_steps": 0}, "steps"),
        ({"num_inference_steps": 251}, "250"),
        ({"sampler": "euler"}, "dpm"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_power": float("nan")}, "guidance_power"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "latents"),
        ({"latents": torch.full((1, 8, 8, 8), torch.nan)}, "latents must be finite"),
        ({"output_type": "np"}, "output_type"),
    ],
)
def test_a_wrong_call_is_named_before_the_first_step(pipe, wrong, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(**({"class_labels": [0]} | wrong))


@pytest.mark.parametrize(
    "part, weight, said",
    [
        ("transformer", "final_layer.linear.bias", "the model's latents are not finite"),
        ("vae", "decoder.layers.0.bias", "the autoencoder's pixels are not finite"),
        ("vae", "encoder.layers.0.bias", "the autoencoder's latents are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_no_picture(part, weight, said, picture, mask):
    """Catches a black picture where weights are damaged, and a message that does not say whose."""
    damaged = tiny_pipeline()
    damaged.fit_preview()
    getattr(damaged, part).state_dict()[weight].fill_(torch.nan)
    if "encoder" not in weight.split("."):
        with pytest.raises(ValueError, match=said):
            damaged("cat", seeds=1, **SETTINGS)
    with pytest.raises(ValueError, match=said):
        damaged.inpaint(picture, mask, "cat", seeds=1, **SETTINGS)


# --- inpainting ----------------------------------------------------------------------------------------------


@pytest.fixture
def picture() -> np.ndarray:
    """(50, 70, 3): neither square nor the model's size."""
    return np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    painted = np.zeros((50, 70), bool)
    painted[20:34, 30:50] = True
    return painted


@pytest.mark.parametrize("method", ["mdt", "repaint", "blend"])
@pytest.mark.parametrize("area", ["whole", "crop", "masked"])
def test_outside_the_grown_mask_nothing_changes(pipe, picture, mask, method, area):
    """Catches the autoencoder's traces outside the mask, and a result of another size; previews too."""
    steps = list(pipe.stream_inpaint(picture, mask, "cat", method, seeds=[1, 2], area=area, grow=3, **SETTINGS))
    far = np.ones_like(mask)
    far[16:38, 26:54] = False
    for image in steps[0].preview + steps[-1].images:
        changed = (np.asarray(image) != picture).any(-1)
        assert not changed[far].any() and changed[mask].mean() > 0.9
    assert difference(*steps[-1].images) > 0  # two seeds, two variants


def test_inpainting_takes_pil_pictures_and_grey_masks(pipe, picture, mask):
    a = pipe.inpaint(picture, mask, "cat", seeds=3, **SETTINGS).images[0]
    grey = Image.fromarray(np.where(mask, 200, 90).astype(np.uint8))
    b = pipe.inpaint(Image.fromarray(picture), grey, "cat", seeds=3, **SETTINGS).images[0]
    assert difference(a, b) == 0


def test_inpainting_takes_arrays_and_masks_of_any_kind(pipe, picture, mask):
    """Catches alpha taken for paint, 16 bits cut to white, and a mask of 0 and 1 that is called empty."""
    same = pipe.inpaint(picture, mask, "cat", seeds=3, **SETTINGS).images[0]
    solid = np.dstack([picture, np.full(mask.shape, 255, np.uint8)])
    alpha = np.dstack([np.full((*mask.shape, 3), 255, np.uint8), 255 * mask.astype(np.uint8)])
    sixteen = Image.fromarray((mask * 65535 + ~mask * 2000).astype(np.uint16))
    assert difference(pipe.inpaint(solid, mask, "cat", seeds=3, **SETTINGS).images[0], same) == 0
    numbers = [mask.astype(np.uint8), mask.astype(np.float32), mask * 255, np.dstack([mask * 255] * 3)]
    # The same numbers as pictures of more bits: in modes "I", "I;16" and "F".
    images = [Image.fromarray(255 * mask.astype(kind)) for kind in (np.int32, np.uint16, np.float32)]
    for other in (alpha, sixteen, *numbers, *images, Image.fromarray(mask.astype(np.int32))):
        assert np.array_equal(mask_array(other), mask)
    for wrong in (picture / 255, picture[None], picture[..., :2]):
        with pytest.raises(ValueError, match="the picture must be"):
            pipe.inpaint(wrong, mask, "cat", seeds=3, **SETTINGS)
    for wrong in (mask * -1, mask * 300.0, mask[None]):
        with pytest.raises(ValueError, match="the mask must be"):
            mask_array(wrong)


def test_a_part_of_the_trajectory_starts_from_the_original(pipe, picture, mask):
    """By default, as `strength` promises: catches a start from the blurred fill, of which a part would be kept."""
    made = {
        (content, strength): pipe.inpaint(
            picture, mask, "cat", seeds=3, strength=strength, masked_content=content, **SETTINGS
        ).images[0]
        for content in ("auto", "original", "fill")
        for strength in (0.5, 1.0)
    }
    assert difference(made["auto", 0.5], made["original", 0.5]) == 0 < difference(made["auto", 0.5], made["fill", 0.5])
    assert difference(made["auto", 1.0], made["fill", 1.0]) == 0


def test_a_dit_has_no_masked_pass_but_inpaints(pipe, picture, mask):
    model = DiT(sample_size=8, in_channels=8, patch_size=2, hidden_size=32, depth=2, num_heads=2, num_classes=3)
    plain = MDTPipeline(model, pipe.vae)
    with pytest.raises(ValueError, match="repaint"):
        plain.inpaint(picture, mask, 0)
    plain.inpaint(picture, mask, 0, method="repaint", seeds=1, **SETTINGS)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mask": np.zeros((50, 70), bool)}, "empty"),
        ({"mask": np.ones((50, 70), bool)}, "whole picture"),
        ({"mask": np.ones((50, 71), bool)}, "71 x 50"),
        ({"method": "magic"}, "magic"),
        ({"strength": 0.0}, "strength"),
        ({"masked_content": "old"}, "old"),
        ({"masked_content": "noise", "strength": 0.5}, "strength 1"),
    ],
)
def test_a_wrong_inpainting_is_named(pipe, picture, mask, wrong, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream_inpaint(**({"image": picture, "mask": mask, "class_labels": 0} | wrong))
