"""The masked diffusion transformer: model, training loop, sampler.

What is public is imported when it is first used: `import mdt_core` alone takes no time.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from mdt_core.pipeline.pipeline import MDTPipeline
    from mdt_core.presets import PRESETS
    from mdt_core.transformer import MDT, DiT, MDTTransformer, MDTv2
    from mdt_core.weights.official import load_official

__version__ = "0.1.0"

__all__ = [
    "MDT",
    "PRESETS",
    "DiT",
    "MDTPipeline",
    "MDTTransformer",
    "MDTv2",
    "ModelMixin",
    "create_model",
    "load_official",
]

HOMES = {
    "DiT": "mdt_core.transformer",
    "MDT": "mdt_core.transformer",
    "MDTPipeline": "mdt_core.pipeline.pipeline",
    "MDTTransformer": "mdt_core.transformer",
    "MDTv2": "mdt_core.transformer",
    "ModelMixin": "diffusers",  # a saved pipeline names this package: diffusers looks here for what it can load
    "PRESETS": "mdt_core.presets",
    "load_official": "mdt_core.weights.official",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'mdt_core' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def create_model(
    name: str,
    sample_size: int = 32,
    num_classes: int = 1000,
    decoder_layers: int | None = None,
    in_channels: int = 4,
    without: Sequence[str] = (),
) -> "MDTTransformer":
    """A freshly initialised model.

    Args:
        name: {DiT,MDT,MDTv2}-{XS,XS256,S,B,L,XL}/{2,4,8}.
        sample_size: side of the latents in cells (pixels / 8 with Stable Diffusion's autoencoder).
        num_classes: classes; the null class is added.
        decoder_layers: decoder blocks; by default 2 for MDT, the size's own for MDTv2.
        in_channels: latent channels.
        without: parts to leave out for an ablation, such as "relative_bias"; `MDTv2.parts` lists them all.

    Raises:
        ValueError: an unknown name, or sizes that do not fit together.
    """
    from mdt_core.presets import model_config
    from mdt_core.transformer import MDT, DiT, MDTv2

    version, sizes = model_config(name, decoder_layers)
    family = {"DiT": DiT, "MDT": MDT, "MDTv2": MDTv2}
    sizes |= {"sample_size": sample_size, "in_channels": in_channels, "num_classes": num_classes}
    return family[version](**sizes, without=list(without))
