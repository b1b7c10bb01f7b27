"""How the small autoencoder is trained and its decoder tuned: configurations, and recipes that are rows of them.

A run folder holds its configuration as config.json, beside the weights. `--list` prints the recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from train.budget import StepsConfig
from train.command import aligned


@dataclass(frozen=True, kw_only=True)
class StageConfig(StepsConfig):
    """What both trainings are told. ValueError where a value makes no sense."""

    data: str = "data/avatars"  # folder that train.avatars wrote
    num_images: int | None = None  # the first so many of the training set; None: all
    critic_weight: float = 0.1  # gradient of the critic's term over the reconstruction's, at the last layer
    critic_learning_rate: float = 5e-4
    difference_weight: float = 0.5  # of the differences between neighbouring pixels in the reconstruction loss

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_images")
        self.check_amounts("critic_learning_rate", "critic_weight", "difference_weight")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(StageConfig):
    """The autoencoder's training. The defaults suit 64 px on a CPU."""

    block: int = 4  # pixels along the side of a cell of the first stage
    latent_channels: int = 4
    encoder_width: int = 48  # channels
    encoder_blocks: tuple[int, ...] = (2,)  # residual blocks of each stage; a stage's cells are twice as long
    decoder_width: int = 96
    decoder_blocks: tuple[int, ...] = (3,)  # likewise, from the latents on
    latent_noise: tuple[float, float] = (0.0, 0.15)  # std of the noise on the decoder's latents, least and most
    statistics_weight: float = 0.01  # of the loss that holds latents to mean 0 and std 1
    warmup_steps: int = 100  # linear from 0; after them a cosine down to 2%
    critic_from: float = 0.6  # share of the training after which the critic counts
    balance: float = 0.6  # power of a channel's effect on the image that its std becomes; 0: all have std 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1 or self.latent_channels < 1 or min(self.encoder_width, self.decoder_width) < 1:
            raise ValueError("block, latent_channels, encoder_width and decoder_width must be at least 1")
        if not 0 <= self.latent_noise[0] <= self.latent_noise[1]:
            raise ValueError(f"latent_noise must be (least, most), both at least 0, not {self.latent_noise}")
        if not 0 <= self.critic_from <= 1:
            raise ValueError(f"critic_from must be 0 to 1, not {self.critic_from}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(StageConfig):
    """The tuning of a decoder on what a diffusion model hands it. The defaults suit 64 px on a CPU."""

    model: str = "runs/avatars/pipeline"  # pipeline folder: the diffusion model, and the autoencoder to be tuned
    latents: str = "data/avatars-latents"  # what train.latents made of the data with that autoencoder
    width: int | None = None  # channels of a larger decoder; None: as it is
    blocks: int | None = None  # its residual blocks; None: as they are
    num_samples: int = 1024  # latents drawn from noise; none where critic_weight is 0
    num_round_trips: int = 2048  # latents of images, noised and sampled back
    sampling_batch_size: int = 64  # latents that the diffusion model draws at once
    steps: int = 2400
    batch_size: int = 18  # in equal parts encoded images, round trips and samples
    learning_rate: float = 3e-4  # falls linearly to 5%
    latent_noise: float = 0.15  # most std of the noise on encoded images
    critic_weight: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_samples", "num_round_trips", "latent_noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.sampling_batch_size < 1:
            raise ValueError(f"sampling_batch_size must be at least 1, not {self.sampling_batch_size}")
        if self.batch_size < self.num_kinds:
            raise ValueError(f"batch_size must be at least {self.num_kinds}, one of each kind, not {self.batch_size}")

    @property
    def num_kinds(self) -> int:
        """Kinds of latents in a batch: without a critic, samples have nothing to be held to."""
        return 3 if self.critic_weight > 0 else 2


AUTOENCODERS = {
    "avatars": AutoencoderConfig(expect="64 px to 16 x 16 x 4, 28.4 dB: 20 minutes of a CPU core"),
    "avatars-128": AutoencoderConfig(
        data="data/avatars-128",
        num_images=9_600,  # 600 of each style
        latent_channels=12,
        encoder_width=64,
        encoder_blocks=(1, 2),
        decoder_width=128,
        decoder_blocks=(2, 3),
        steps=11_130,
        batch_size=128,
        critic_weight=0.4,
        critic_from=0.4,
        expect="128 px to 16 x 16 x 12, as shipped: 2.4 minutes of an H200",
    ),
}

DECODERS = {
    "avatars": DecoderConfig(expect="for avatars, 64 px"),
    "avatars-128": DecoderConfig(
        data="data/avatars-128",
        model="runs/avatars-gpu/pipeline",
        latents="data/avatars-128-latents",
        num_samples=2048,
        num_round_trips=4096,
        sampling_batch_size=512,
        steps=3_856,
        batch_size=96,
        learning_rate=5e-4,
        critic_weight=0.6,
        expect="for avatars-gpu, as shipped: 37.8 dB, 0.8 minutes of an H200",
    ),
    # A drawing's areas are of one colour. A critic does not mind a grey level of unrest in them; the judge does.
    "avatars-128-polish": DecoderConfig(
        data="data/avatars-128",
        num_images=8_000,  # 500 of each style
        model="runs/avatars-gpu-half",
        latents="data/avatars-128-half-latents",
        num_round_trips=768,
        steps=600,
        batch_size=16,
        critic_weight=0.0,
        difference_weight=4.0,
        log_every=50,
        save_every=50,
        expect="after avatars-128: flat areas, KID 0.062 to 0.034; 24 minutes of two CPU cores",
    ),
    "avatars-128-polish-2": DecoderConfig(
        data="data/avatars-128",
        num_images=9_600,  # 600 of each style
        model="runs/avatars-polished",
        latents="data/avatars-128-half-latents",
        num_round_trips=1024,
        steps=4_000,
        batch_size=16,
        learning_rate=4e-4,
        critic_weight=0.0,
        difference_weight=4.0,
        log_every=500,
        save_every=500,
        expect="after avatars-128-polish, as shipped: KID 0.030 to 0.026; 24 minutes of two CPU cores with AMX",
    ),
}


def table(recipes: Mapping[str, StageConfig]) -> str:
    """The recipes, for --list."""
    head = ["recipe", "data", "steps x batch", "expect"]
    rows = [[name, c.data, f"{c.steps:,} x {c.batch_size}", c.expect] for name, c in recipes.items()]
    return "\n".join(aligned([head, *rows]))
