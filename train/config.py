"""Recipes: named training configurations, one row each, saved in the run folder as config.json.

`python -m train --list` prints them with what each costs and what to expect of it.
"""

import math
from dataclasses import dataclass, field, fields, replace

from mdt_core.training.config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run."""

    model: str  # a preset of mdt_core
    training: TrainingConfig
    latents: str = "data/avatars-latents"  # folder that train.latents wrote
    vae: str = "runs/avatars-autoencoder"  # the autoencoder that made them
    decoder_layers: int | None = None  # blocks of the decoder; None: the preset's
    without: tuple[str, ...] = ()  # parts of the model left out, for an ablation
    repeats: dict[str, int] = field(default_factory=dict)  # how often an image of a class, by name, is read; else once
    unconditional: bool = False  # train without classes, whatever the data say
    init_from: str | None = None  # begin with these weights: a checkpoint, a pipeline or a published file
    tensorboard: bool = False  # write curves to the run folder's tensorboard/
    samples_per_class: int = 2  # in the pictures of samples/
    sample_guidance_scale: float = 2.0
    sample_steps: int = 20  # of dpm++
    data_shape: tuple[int, int, int] = (4, 16, 16)  # latent channels, side and classes that `--list` reckons with
    expect: str = ""  # what to expect of it, and by whose figures

    def __post_init__(self) -> None:
        for name in ("samples_per_class", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.sample_guidance_scale < math.inf:
            raise ValueError(f"sample_guidance_scale must be at least 0, not {self.sample_guidance_scale}")


PAPER = TrainingConfig()  # MDTv2: Adan, min-SNR-5, mask ratio 0.3 to 0.5, batch 256, EMA 0.9999
V1 = replace(PAPER, optimizer="adamw", learning_rate=1e-4, mask_ratio=(0.3, 0.3), min_snr_gamma=None)
DIT = replace(V1, mask_ratio=None)

# A laptop's CPU: 64 tokens, an hour or two, the learning rate down to 0 in the last third. The rates were searched
# (train/RESULTS.md): Adan bears four times AdamW's, which at 6e-3 runs off after 2,700 steps.
CPU = TrainingConfig(
    steps=6400,
    batch_size=32,
    learning_rate=1.2e-2,
    warmup_steps=200,
    decay=0.3,
    ema_decay=0.999,
    save_every=250,
    log_every=50,
)
CPU_V1 = replace(CPU, optimizer="adamw", learning_rate=3e-3, mask_ratio=(0.3, 0.3), min_snr_gamma=None)
# One GPU, some minutes: 128 px in 64 tokens, by an autoencoder whose cells have eight pixels along a side.
GPU = replace(
    CPU,
    steps=11_600,
    batch_size=256,
    learning_rate=3e-3,
    warmup_steps=300,
    decay=0.75,
    ema_decay=0.9995,
    cuda_graphs=True,
    log_every=200,
    save_every=2_000,
)


def imagenet(model: str, training: TrainingConfig, expect: str) -> Recipe:
    """A row of the paper's tables: ImageNet latents of 256 px."""
    data = {"latents": "data/imagenet-latents", "vae": "stabilityai/sd-vae-ft-mse", "data_shape": (4, 32, 1000)}
    return Recipe(model, training, **data, samples_per_class=1, sample_guidance_scale=3.8, expect=expect)


def ablation(expect: str, model: str = "MDT-XS/2", **changes) -> Recipe:
    """avatars-mdt with one thing changed: in its model, or in its training."""
    of_training = {key: changes.pop(key) for key in set(changes) & {each.name for each in fields(TrainingConfig)}}
    return Recipe(model, replace(CPU_V1, **of_training), **changes, expect=f"avatars-mdt {expect}")


# The shipped model read each image of these styles so many times for one of the others.
SHIPPED_REPEATS = {"thumbs": 5, "clay": 3, "open-peeps": 2, "big-ears": 2, "pixel-art": 2, "critters": 2}
AVATARS_128 = {"latents": "data/avatars-128-latents", "vae": "runs/avatars-128-autoencoder", "data_shape": (12, 16, 16)}

RECIPES = {
    # --- the model we ship, and what a CPU can train, with its siblings for comparison
    "avatars-gpu": Recipe(
        "MDTv2-XS256/2", GPU, **AVATARS_128, repeats=SHIPPED_REPEATS, expect="128 px, as shipped: 7 minutes of an H200"
    ),
    "avatars": Recipe(
        "MDTv2-XS/2",
        CPU,
        expect="64 px, an hour of two CPU cores with AMX; half of it run at this rate, all at 1.5e-3: train/LOG.md",
    ),
    "avatars-mdt": Recipe("MDT-XS/2", CPU_V1, expect="version 1 of it"),
    "avatars-dit": Recipe("DiT-XS/2", replace(CPU_V1, mask_ratio=None), expect="the plain transformer of that size"),
    # --- the paper's, on ImageNet; FID-50K as published, without guidance unless said
    "mdtv2-s2": imagenet("MDTv2-S/2", replace(PAPER, learning_rate=5e-4), "FID 39.50 at 400k steps"),
    "mdtv2-b2": imagenet("MDTv2-B/2", PAPER, "FID 19.55 at 400k steps"),
    "mdtv2-xl2": imagenet("MDTv2-XL/2", PAPER, "FID 7.70 at 400k steps; in the end 1.58 with guidance"),
    "mdt-s2": imagenet("MDT-S/2", V1, "FID 53.46 at 400k steps"),
    "mdt-b2": imagenet("MDT-B/2", V1, "FID 34.33 at 400k steps"),
    "mdt-xl2": imagenet("MDT-XL/2", V1, "FID 6.23 at 6,500k steps; 1.79 with guidance"),
    "dit-s2": imagenet("DiT-S/2", DIT, "FID 68.40 at 400k steps"),
    "dit-b2": imagenet("DiT-B/2", DIT, "FID 43.47 at 400k steps"),
    "dit-xl2": imagenet("DiT-XL/2", DIT, "FID 19.47 at 400k steps; 9.62 at 7,000k"),
    # --- what version 2 added to version 1, each on its own (the paper's Table 6)
    "avatars-mdt-adan": ablation("with Adan at its own rate", optimizer="adan", learning_rate=CPU.learning_rate),
    "avatars-mdt-min-snr": ablation("with min-SNR weighting", min_snr_gamma=5.0),
    "avatars-mdt-wide-mask": ablation("with 30 to 50% hidden", mask_ratio=(0.3, 0.5)),
    "avatars-mdt-decoder-4": ablation("with 4 decoder blocks", decoder_layers=4),
    "avatars-mdt-long-shortcuts": ablation(
        "with U-Net shortcuts in its encoder", "MDTv2-XS/2", decoder_layers=2, without=("dense_inputs",)
    ),
    "avatars-mdt-dense-inputs": ablation(
        "with the input in every decoder block", "MDTv2-XS/2", decoder_layers=2, without=("long_shortcuts",)
    ),
    # --- what version 1 added to DiT, each left out (the paper's Table 8)
    "avatars-mdt-no-mask": ablation("without the masked pass", mask_ratio=None),
    "avatars-mdt-no-interpolator": ablation("without side-interpolator", without=("side_interpolator",)),
    "avatars-mdt-no-bias": ablation("without relative position bias", without=("relative_bias",)),
    "avatars-mdt-fixed-positions": ablation("with fixed positions", without=("learnable_positions",)),
}
