"""The masked diffusion transformer: model, training step, sampler."""

from collections.abc import Sequence

from mdt_core.official import load_official
from mdt_core.pipeline import MDTPipeline
from mdt_core.presets import PRESETS, model_config
from mdt_core.transformer import MDT, DiT, MDTTransformer, MDTv2

__all__ = [
    "MDT",
    "PRESETS",
    "DiT",
    "MDTPipeline",
    "MDTTransformer",
    "MDTv2",
    "create_model",
    "load_official",
]


def create_model(
    name: str,
    sample_size: int = 32,
    num_classes: int = 1000,
    decoder_layers: int | None = None,
    in_channels: int = 4,
    without: Sequence[str] = (),
) -> MDTTransformer:
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
    version, sizes = model_config(name, decoder_layers)
    family = {"DiT": DiT, "MDT": MDT, "MDTv2": MDTv2}
    sizes |= {"sample_size": sample_size, "in_channels": in_channels, "num_classes": num_classes}
    return family[version](**sizes, without=list(without))
