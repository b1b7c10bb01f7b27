"""Tune the small autoencoder's decoder on the latents that it is really given: the diffusion model's own.

A decoder knows encoded images alone; a sampler's latents are slightly wrong, and what it makes of them is smeared
edges and mottled areas. So it is trained on three kinds of latents in equal parts, with the encoder, and with it
every latent, left as it is:

    encoded        an image's latents, with a little noise       held to the image and to the critic
    round trips    the same, noised half-way and sampled back    held to the image and to the critic
    samples        out of pure noise, as the app draws them      held to the critic alone

    python -m train.autoencoder.decoder avatars --output-dir runs/avatars-decoder

The settings `width` and `blocks` make the decoder larger first: a model need not be trained anew to get a better one.
Without a critic (critic_weight=0) there are no samples: with difference_weight=4 that polishes a tuned decoder.
"""

from functools import partial

import torch
from torch import Tensor

from mdt_core import MDTPipeline
from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.autoencoder import decode
from mdt_core.runs import Run
from mdt_core.training.draws import to_device
from train.autoencoder.adversary import reconstruction_loss
from train.autoencoder.config import DECODERS, DecoderConfig, table
from train.autoencoder.generated import Generated, generate
from train.autoencoder.model import grow_decoder, pixels_of
from train.autoencoder.state import Pictures, State, write_result
from train.command import Parser, train_by_recipe
from train.latents.dataset import Latents
from train.run_steps import autocast, choose_training_device, run_steps, step_generators
from train.settings import check_same_run

FIXED = ("width", "blocks")  # of the configuration: what a run keeps from its start to its end
CRITIC_WARMUP = 500  # steps in which the weight of the critic's term grows from 0: the critic learns first


def tune_decoder(config: DecoderConfig, run: Run) -> None:
    """Tune into a run folder, or go on there.

    Raises:
        ValueError: what it builds on is missing or does not fit together, or the folder holds another run.
        TrainingError: the last checkpoint cannot be read, or a file not be written.
    """
    check_same_run(run, config.describe(), FIXED)
    device = choose_training_device()

    # The diffusion model, the latents it learnt, and the images that they were made of.
    pipe, data = MDTPipeline.from_pretrained(config.model).to(device), Latents(config.latents)
    data.check_encoder(pipe.vae, f"that of {config.model}")
    pictures = Pictures.open(config.data, config.num_images, device)
    if data.made_of.get("source") not in (None, pictures.digest):
        raise ValueError(f"{config.latents} was made of other images than {config.data}: run train.latents on those")
    data.cache(device)

    # What the model makes of them.
    run.write_config(config.describe())
    num_images = min(len(data), config.num_images or len(data))
    generated = generate(config, pipe, data, num_images, run.folder / "generated", device)

    # The decoder and its training.
    torch.manual_seed(config.seed)
    vae = grow_decoder(pipe.vae, config.width, config.blocks)
    vae.encoder.requires_grad_(False)
    state = State.start(vae, vae.decoder.parameters(), (0.5, 0.99), config, pictures.num_classes, device)
    step = DecoderStep(config, state, pictures, data, num_images, generated)
    if run_steps(state, config, run, step, partial(state.measure, pictures)):
        write_result(state.ema.model, run)


def images_of(images: Tensor, places: Tensor, flipped: Tensor) -> Tensor:
    """Those of `images` (M, 3, H, W) uint8 at `places` (N,), mirrored where `flipped` (N,): (N, 3, H, W) in [-1, 1]."""
    pixels = pixels_of(images[places], images.device)
    return torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


class DecoderStep:
    """One step: call it with its number and how much of the tuning is over; it gives the means to log."""

    def __init__(
        self,
        config: DecoderConfig,
        state: State,
        pictures: Pictures,
        data: Latents,
        num_images: int,
        generated: Generated,
    ):
        self.config, self.state, self.pictures, self.generated = config, state, pictures, generated
        self.data, self.num_images, self.device = data, num_images, pictures.images.device
        self.recorded = recorded(self.update, self.device)

    def __call__(self, number: int, progress: float) -> dict[str, Tensor]:
        config, generated = self.config, self.generated
        host, device = step_generators(config.seed, number, self.device)
        part = config.batch_size // config.num_kinds

        def draw(count: int) -> Tensor:
            """Of so many, a part of the batch; of none, none."""
            return torch.randint(max(count, 1), (part if count else 0,), generator=host)

        # What is drawn, and which of the pictures it is.
        encoded, round_trips = draw(self.num_images), draw(len(generated.round_trips))
        samples, others = draw(len(generated.samples)), draw(len(self.pictures.images))
        places, flipped = self.data.sources(torch.cat([encoded, generated.indices[round_trips]]).numpy())
        drawn = (torch.as_tensor(each) for each in (places, flipped, round_trips, samples, others))
        places, flipped, round_trips, samples, others = (to_device(each, self.device) for each in drawn)

        # Their latents and classes.
        mean = self.data.batch(encoded.tolist())[0].to(self.device)
        level = config.latent_noise * torch.rand(part, 1, 1, 1, generator=device, device=self.device)
        mean += level * torch.randn(mean.shape, generator=device, device=self.device)
        latents = torch.cat([mean, generated.round_trips[round_trips], generated.samples[samples]])
        labels = torch.cat([self.pictures.labels[places], generated.labels[samples]])

        learning_rate = config.learning_rate * (1 - 0.95 * progress)
        critic_weight = config.critic_weight * min(1.0, number / CRITIC_WARMUP)
        return self.recorded(learning_rate, float(number + 1), critic_weight, latents, labels, places, flipped, others)

    def update(
        self,
        learning_rate: float | Tensor,
        done: float | Tensor,
        critic_weight: float | Tensor,
        latents: Tensor,
        labels: Tensor,
        places: Tensor,
        flipped: Tensor,
        others: Tensor,
    ) -> dict[str, Tensor]:
        """The step as a function of numbers and tensors alone, so that a GPU's launches can be recorded.

        Args:
            done: steps, with this one.
            latents: (N, C, h, w) of all kinds, the samples last. labels: (N,), their classes.
            places: (M,), the images of those that are no samples. flipped: (M,), whether they are mirrored.
            others: images beside them that the critic is shown, as many as there are samples.
        """
        state, images = self.state, self.pictures.images
        originals = images_of(images, places, flipped)
        with autocast(self.device):
            y = decode(state.vae, latents).float()
        reconstruction = reconstruction_loss(originals, y[: len(originals)], self.config.difference_weight)
        loss, means = reconstruction, {"reconstruction": reconstruction.detach()}
        if state.adversary is not None:
            with autocast(self.device):
                term = state.adversary.term(y, labels, reconstruction, last=state.vae.decoder.layers[-1].weight)
            loss = loss + critic_weight * term
        loss.backward()
        state.apply_gradients(learning_rate, done)
        if state.adversary is not None:
            real = torch.cat([originals, pixels_of(images[others], self.device)])
            real_labels = torch.cat([labels[: len(originals)], self.pictures.labels[others]])
            with autocast(self.device):
                scores = state.adversary.step(real, real_labels, y, labels)
            means |= dict(zip(("critic_real", "critic_fake"), scores, strict=True))
        return means


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train.autoencoder.decoder", description=__doc__.splitlines()[0])
    train_by_recipe(parser, DECODERS, partial(table, DECODERS), tune_decoder, arguments)


if __name__ == "__main__":
    main()
