"""A trajectory stays on its device, seen without a GPU: tensors on "meta", without values, do not mix with a CPU's."""

import pytest
import torch
from torch.fx.experimental._config import patch

from mdt_core.autoencoder import decode, encode
from mdt_core.guidance import KINDS, guide
from mdt_core.inpainting import METHODS, inpaint
from mdt_core.lora import LoRA
from mdt_core.masking import mask_noise
from mdt_core.samplers import SAMPLERS, generators, initial_latents, sample
from tests.helpers.tiny import tiny_pipeline
from train.distill.config import DistillConfig
from train.distill.training import State

SEEDS = [0, 1]
all_kept = patch(meta_nonzero_assume_all_nonzero=True)  # which tokens a masked pass keeps depends on values
SETTINGS = {"num_inference_steps": 4, "generators": generators(SEEDS)}


@pytest.fixture
def pipe(monkeypatch):
    """A tiny one there. Whether two labels are equal depends on values: not this time."""
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    pipe = tiny_pipeline()
    for part in (pipe.transformer, pipe.vae):
        part.to("meta")
    return pipe


def guided(pipe, kind: str):
    """The tiny model on that device, guided."""
    labels = torch.zeros(len(SEEDS), dtype=torch.int64, device="meta")
    return guide(
        pipe.transformer,
        labels,
        null_class=pipe.num_classes,
        guidance_scale=2.0,
        guidance_power=0.0,
        guidance_kind=kind,
        mask_noise=mask_noise(SEEDS, pipe.transformer.num_tokens),
    )


def test_the_device_does_not_mix_with_the_cpu():
    """What the other tests stand on."""
    with pytest.raises(RuntimeError):
        torch.ones(2, device="meta") * torch.ones(2)


def test_a_student_learns_where_its_model_is(pipe):
    """Catches a low-rank addition that is made on the CPU, which ended every distillation on a GPU."""
    state = State(LoRA(pipe.transformer, ["final_layer.linear"], 2), DistillConfig())
    for lora in (state.lora, state.ema.model):
        assert {weight.device.type for weight in lora.weights(pipe.transformer).values()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(pipe, kind, sampler):
    latents = initial_latents(generators(SEEDS), pipe.latent_shape).to("meta")
    *_, last = sample(guided(pipe, kind), latents, sampler=sampler, **SETTINGS)
    assert decode(pipe.vae, last.x_t).device.type == "meta"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_inpainting(pipe, method, sampler):
    """Catches known cells that are noised by a table of the CPU's, which ended every run on a GPU at its first step."""
    known = encode(pipe.vae, torch.zeros(1, 3, pipe.image_size, pipe.image_size, device="meta"))
    hardness = torch.ones(known.shape[-2:])
    with all_kept:
        *_, last = inpaint(guided(pipe, "class"), known, hardness, method=method, sampler=sampler, **SETTINGS)
    assert last.x_t.device.type == "meta"
