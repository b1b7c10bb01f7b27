"""Recipes: named training configurations, one row each, saved in the run folder as config.json."""

import ast
from dataclasses import asdict, dataclass, fields, replace

from mdt_core.training_config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run."""

    model: str  # a preset of mdt_core
    training: TrainingConfig
    latents: str = "data/avatars-latents"  # folder that train.latents wrote
    vae: str = "runs/avatars-decoder"  # the autoencoder that made them
    samples_per_class: int = 2  # in the pictures of samples/
    sample_guidance_scale: float = 2.0
    sample_steps: int = 20  # of dpm++

    def describe(self) -> dict:
        return asdict(self)


PAPER = TrainingConfig()  # MDTv2: Adan, min-SNR-5, mask ratio 0.3 to 0.5, batch 256, EMA 0.9999
V1 = replace(PAPER, optimizer="adamw", learning_rate=1e-4, mask_ratio=(0.3, 0.3), min_snr_gamma=None)
DIT = replace(V1, mask_ratio=None)
IMAGENET = {"latents": "data/imagenet-latents", "vae": "stabilityai/sd-vae-ft-mse", "sample_guidance_scale": 3.8}

# A laptop's CPU: 16 tokens, an hour or two, the learning rate down to 0 in the last third.
CPU = TrainingConfig(
    steps=7000,
    batch_size=32,
    learning_rate=1.5e-3,
    warmup_steps=200,
    decay=0.3,
    ema_decay=0.998,
    save_every=250,
    log_every=50,
)
# One GPU, half an hour: 128 px, 256 tokens.
GPU = replace(CPU, steps=60_000, batch_size=256, learning_rate=1e-3, ema_decay=0.9995, save_every=2_000)

RECIPES = {
    # the model we ship, and its plain sibling for comparison
    "avatars": Recipe("MDTv2-XS/4", CPU),
    "avatars-dit": Recipe("DiT-XS/4", replace(CPU, optimizer="adamw", mask_ratio=None)),
    "avatars-gpu": Recipe("MDTv2-S/2", GPU, latents="data/avatars-128-latents", vae="runs/avatars-128-autoencoder"),
    # the paper's, on ImageNet latents of 256 px
    "mdtv2-s2": Recipe("MDTv2-S/2", replace(PAPER, learning_rate=5e-4), **IMAGENET),
    "mdtv2-b2": Recipe("MDTv2-B/2", PAPER, **IMAGENET),
    "mdtv2-xl2": Recipe("MDTv2-XL/2", PAPER, **IMAGENET),
    "mdt-s2": Recipe("MDT-S/2", V1, **IMAGENET),
    "mdt-b2": Recipe("MDT-B/2", V1, **IMAGENET),
    "mdt-xl2": Recipe("MDT-XL/2", V1, **IMAGENET),
    "dit-s2": Recipe("DiT-S/2", DIT, **IMAGENET),
    "dit-b2": Recipe("DiT-B/2", DIT, **IMAGENET),
    "dit-xl2": Recipe("DiT-XL/2", DIT, **IMAGENET),
}


def find_recipe(name: str, settings: list[str] = ()) -> Recipe:
    """A recipe by name, with "key=value" settings applied to it or to its training configuration.

    Raises:
        ValueError: no such recipe or key, or a value that is no Python literal of that key's kind.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    own = {field.name for field in fields(Recipe)} - {"training"}
    of_training = {field.name for field in fields(TrainingConfig)}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in own | of_training:
            raise ValueError(f"--set {setting}: write key=value, with a key of {', '.join(sorted(own | of_training))}")
        value = _literal(text)
        old = getattr(recipe if key in own else recipe.training, key)
        number = isinstance(old, int | float) and isinstance(value, int | float)
        if old is not None and value is not None and not number and not isinstance(value, type(old)):
            raise ValueError(f"--set {setting}: {key} is {old!r} here, {value!r} is of another kind")
        if key in own:
            recipe = replace(recipe, **{key: value})
        else:
            recipe = replace(recipe, training=replace(recipe.training, **{key: value}))
    return recipe


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
