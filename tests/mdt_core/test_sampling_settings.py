"""Settings that a model carries: what sampling begins with, saved with the folder, refused where they are wrong."""

import inspect
import json

import numpy as np
import pytest
import torch

from mdt_core import MDTPipeline
from mdt_core.inpainting import DEFAULT_SCALE, METHODS
from mdt_core.pipeline.settings import SamplingSettings
from tests.helpers.tiny import tiny_pipeline

OTHERS = {"guidance_kind": "both", "guidance_low": 100, "guidance_high": 800, "first_timestep": 850}
OWN = {"sampler": "ddim", "num_inference_steps": 3, "guidance_scale": 2.5, "guidance_power": 0.5}
PUBLISHED = {"sampler": "dpm++", "num_inference_steps": 25, "guidance_scale": 3.8, "guidance_power": 4.0}
CALL = {"class_labels": "cat", "seeds": 1, "output_type": "latent"}


@pytest.fixture
def pipe() -> MDTPipeline:
    return tiny_pipeline()


def latents(pipe: MDTPipeline, **settings) -> torch.Tensor:
    return pipe(**CALL, **settings).images


@pytest.mark.parametrize(
    "own, meant",
    [(None, PUBLISHED), (OWN, OWN), (OWN | OTHERS, None), ({"guidance_scale": 2.5, "sampler": "ddim"}, None)],
)
def test_a_call_begins_with_the_models_settings(pipe, own, meant):
    """Catches a default of the signature that wins over the model's, and one entry that brings all others with it."""
    meant = meant or PUBLISHED | own
    expected = latents(pipe, **meant)
    pipe.sampling_defaults = own
    assert pipe.sampling_defaults == SamplingSettings(**meant)
    assert torch.equal(latents(pipe), expected)
    assert torch.equal(latents(pipe, **dict.fromkeys(meant)), expected)  # None is not given
    *_, last = pipe.stream(**CALL)
    assert torch.equal(last.images, expected) and last.total == meant["num_inference_steps"]


@pytest.mark.parametrize("name, other", [("guidance_scale", 1.5), ("guidance_power", 2.0), ("sampler", "dpm++")])
def test_what_a_call_names_wins(pipe, name, other):
    expected = latents(pipe, **OWN | {name: other})
    pipe.sampling_defaults = OWN
    assert torch.equal(latents(pipe, **{name: other}), expected)
    assert not torch.equal(latents(pipe), expected)


def test_they_are_saved_with_the_folder(pipe, tmp_path):
    pipe.sampling_defaults = OWN
    pipe.save_pretrained(tmp_path)
    again = MDTPipeline.from_pretrained(tmp_path)
    assert again.sampling_defaults == SamplingSettings(**OWN)
    assert torch.equal(latents(again), latents(pipe))
    tiny_pipeline().save_pretrained(tmp_path / "none")
    assert MDTPipeline.from_pretrained(tmp_path / "none").sampling_defaults == SamplingSettings(**PUBLISHED)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"steps": 25}, "sampling_defaults is a dict with any of guidance_scale, .* not {'steps': 25}"),
        ({"sampler": "euler"}, 'sampling_defaults: no sampler is called "euler"'),
        ({"sampler": ["ddim"]}, "sampling_defaults: no sampler is called"),
        ({"num_inference_steps": 251}, "dpm.. takes 1 to 250 steps, not 251"),
        ({"num_inference_steps": 25.5}, "num_inference_steps must be a whole number, not 25.5"),
        ({"num_inference_steps": "25"}, "num_inference_steps must be a whole number, not '25'"),
        ({"guidance_scale": -1}, "guidance_scale must be a finite number of at least 0, not -1"),
        ({"guidance_power": "4"}, "guidance_power must be a finite number of at least 0, not '4'"),
        ({"first_timestep": 0}, "first_timestep must be a whole number from 1 to 999, not 0"),
        ({"first_timestep": 850.5}, "first_timestep must be a whole number from 1 to 999, not 850.5"),
        ({"guidance_kind": "masked"}, "guidance_kind must be one of class, mask, both, not 'masked'"),
        ({"guidance_low": 500, "guidance_high": 100}, "guidance_low, 500, is above guidance_high, 100"),
        ("ddim", "sampling_defaults is a dict with any of .* not 'ddim'"),
        ({"presets": ["fast"]}, r"the presets in sampling_defaults are .* not \['fast'\]"),
        ({"presets": {"balanced": {}}}, "the presets in sampling_defaults are .* not {'balanced': {}}"),
        (
            {"presets": {"fast": 6}},
            'the preset "fast" in sampling_defaults is a dict with any of .*, sampler, .* not 6',
        ),
        ({"presets": {"slow": {"presets": {}}}}, 'the preset "slow" in sampling_defaults is a dict with any of'),
        ({"presets": {"slow": {"sampler": "dpm++", "num_inference_steps": 300}}}, '"slow" in .*: dpm.. takes 1 to 250'),
    ],
)
def test_a_wrong_entry_is_named_when_it_is_set_and_when_it_is_opened(pipe, tmp_path, wrong, message):
    """Catches settings that are found to be wrong by the first picture, or by a traceback."""
    with pytest.raises(ValueError, match=message) as error:
        pipe.sampling_defaults = wrong
    assert "\n" not in str(error.value) and pipe.sampling_defaults == SamplingSettings()
    with pytest.raises(ValueError, match=message):
        MDTPipeline(pipe.transformer, pipe.vae, sampling_defaults=wrong)
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"sampling_defaults": wrong}))
    with pytest.raises(ValueError, match=f"cannot be opened: .*{message}"):
        MDTPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "own, fast, slow",
    [
        (None, {"num_inference_steps": 10}, {"sampler": "ddpm", "num_inference_steps": 250}),
        ({"guidance_scale": 2}, {"num_inference_steps": 10}, {"sampler": "ddpm", "num_inference_steps": 250}),
        (
            OWN | {"presets": {"fast": {"num_inference_steps": 2}, "slow": {"guidance_scale": 3.0}}},
            {"num_inference_steps": 2},
            {"guidance_scale": 3.0},
        ),
    ],
)
def test_every_model_has_three_presets_and_carries_what_is_its_own(pipe, tmp_path, own, fast, slow):
    """Catches a preset that is not whole, or that forgets what "balanced" says, and one that is lost on the way."""
    pipe.sampling_defaults = own
    pipe.save_pretrained(tmp_path)
    presets = MDTPipeline.from_pretrained(tmp_path).sampling_presets
    balanced = PUBLISHED | {key: value for key, value in (own or {}).items() if key != "presets"}
    expected = {"fast": balanced | fast, "balanced": balanced, "slow": balanced | slow}
    assert presets == {name: SamplingSettings(**settings) for name, settings in expected.items()}
    assert presets["balanced"] == pipe.sampling_defaults


def test_inpainting_has_its_methods_settings_and_nothing_of_the_models(pipe):
    """Catches a model's few steps in place of those that a method needs, and guidance that is meant for pure noise."""
    picture, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    method = METHODS["blend"]
    settings = {"sampler": method.sampler, "num_inference_steps": method.num_inference_steps}
    settings |= {"guidance_scale": DEFAULT_SCALE, "guidance_power": PUBLISHED["guidance_power"]}
    *_, expected = pipe.stream_inpaint(picture, mask, "cat", "blend", seeds=1, **settings)
    pipe.sampling_defaults = OWN | OTHERS
    *_, last = pipe.stream_inpaint(picture, mask, "cat", "blend", seeds=1)
    assert torch.equal(last.x_0, expected.x_0)
    for other in ({"guidance_power": 1.0}, OTHERS):
        *_, last = pipe.stream_inpaint(picture, mask, "cat", "blend", seeds=1, **other)
        assert not torch.equal(last.x_0, expected.x_0)


@pytest.mark.parametrize("call, stream", [("__call__", "stream"), ("inpaint", "stream_inpaint")])
def test_every_argument_stands_in_its_own_signature(call, stream):
    """Catches an argument that one of a pair has and the other drops, and a misspelt one that is swallowed."""
    one, other = (inspect.signature(getattr(MDTPipeline, name)).parameters for name in (call, stream))
    assert one == other
    assert all(each.kind is each.POSITIONAL_OR_KEYWORD for each in one.values())
    assert all(each.annotation is not each.empty for name, each in one.items() if name != "self")


def test_what_a_preset_lists_makes_it_of_the_settings_it_differs_from():
    """Catches an entry left out and one that is the same."""
    settings, other = SamplingSettings(**OWN), SamplingSettings(**OWN | OTHERS, distilled=True)
    assert settings.changes_of(other) == OTHERS | {"distilled": True} and settings.changes_of(settings) == {}
    assert settings.but(**settings.changes_of(other)) == other == SamplingSettings(**other.arguments)
