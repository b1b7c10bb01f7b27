"""One row per model: the sizes of the paper, in three versions and three patch sizes, and the one we ship.

Names read VERSION-SIZE/PATCH: "DiT-S/2", "MDT-B/4", "MDTv2-XL/2".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """One row of DiT's Table 1 (arXiv 2212.09748), which MDT takes over."""

    depth: int  # blocks, decoder included
    hidden_size: int  # width
    num_heads: int
    decoder_layers: int  # of MDTv2; MDT (v1) has 2 at every size


SIZES = {
    #          depth  width  heads  v2 decoder
    "XS": Size(8, 192, 6, 4),  # what a CPU can train; this and the next are not in the paper
    "XS256": Size(12, 256, 8, 4),  # the shipped model: in float16 below 40 MB with its autoencoder
    "S": Size(12, 384, 6, 6),
    "B": Size(12, 768, 12, 4),
    "L": Size(24, 1024, 16, 4),
    "XL": Size(28, 1152, 16, 4),
}
VERSIONS = ("DiT", "MDT", "MDTv2")
PATCH_SIZES = (2, 4, 8)
DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"  # the autoencoder that the published models are used with
PRESETS = [f"{version}-{size}/{patch}" for version in VERSIONS for size in SIZES for patch in PATCH_SIZES]


def model_config(name: str, decoder_layers: int | None = None) -> tuple[str, dict[str, int]]:
    """A preset's name -> its version and the constructor arguments that the name stands for.

    Raises:
        ValueError: the name is no preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no model is called {name!r}: names are VERSION-SIZE/PATCH, such as {PRESETS[-3]!r}")
    version, _, rest = name.partition("-")
    size_name, _, patch = rest.partition("/")
    size = SIZES[size_name]
    default_decoder = {"DiT": 0, "MDT": 2, "MDTv2": size.decoder_layers}[version]
    return version, {
        "patch_size": int(patch),
        "hidden_size": size.hidden_size,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "decoder_layers": default_decoder if decoder_layers is None else decoder_layers,
    }
