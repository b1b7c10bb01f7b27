"""Train the small autoencoder of the shipped model, from its linear start (model.py). The objective, for drawings:

    |x - x'| + |d(x - x')| / 2 + latent statistics + (last part) adversarial term of a small patch critic

where d are the differences between neighbouring pixels. The decoder is given latents with a little noise, so that the
encoder spends its channels on what survives it.
"""

import math
from functools import partial

import torch
from torch import Tensor

from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.autoencoder import decode, downscale, encode
from mdt_core.runs import Run
from mdt_core.training.draws import to_device
from train.autoencoder.adversary import reconstruction_loss
from train.autoencoder.config import AutoencoderConfig
from train.autoencoder.model import (
    balance_channels,
    pixels_of,
    psnr,
    small_autoencoder,
    start_linear,
    statistics_loss,
)
from train.autoencoder.state import Pictures, State, write_result
from train.run_steps import autocast, choose_training_device, run_steps, step_generators
from train.settings import check_same_run

# Of the configuration: what a run keeps from its start to its end.
FIXED = ("block", "latent_channels", "encoder_width", "encoder_blocks", "decoder_width", "decoder_blocks")
HEAD_START = 0.05  # share of the training in which the critic learns before its term counts
CRITIC_PHASES = ("off", "learning", "on")


def train_autoencoder(config: AutoencoderConfig, run: Run) -> None:
    """Train into a run folder, or go on there.

    Raises:
        ValueError: the data are missing, or the folder holds another run.
        TrainingError: the last checkpoint cannot be read, or a file not be written.
    """
    check_same_run(run, config.describe(), FIXED)
    device = choose_training_device()
    pictures = Pictures.open(config.data, config.num_images, device)
    side, cell = pictures.images.shape[-1], config.block * 2 ** (len(config.encoder_blocks) - 1)
    if side % cell:
        raise ValueError(f"{config.data} has {side} px, which do not divide into cells of {cell}: see block")

    # The network, as the best linear one.
    torch.manual_seed(config.seed)
    encoder, decoder = (config.encoder_width, config.encoder_blocks), (config.decoder_width, config.decoder_blocks)
    vae = small_autoencoder(encoder[0], decoder[0], config.latent_channels, config.block, encoder[1], decoder[1])
    few = pictures.images[torch.randperm(len(pictures.images))[:512]]
    start_linear(vae.to(device), pixels_of(few, device), config.block)
    print(f"linear: {psnr(vae, pictures.validation):.2f} dB")

    # Its training.
    state = State.start(vae, vae.parameters(), (0.9, 0.99), config, pictures.num_classes, device)
    run.write_config(config.describe())
    if not run_steps(state, config, run, AutoencoderStep(config, state, pictures), partial(state.measure, pictures)):
        return

    # The latents of the averaged weights, scaled for a diffusion model.
    factors = balance_channels(state.ema.model, pictures.validation, config.balance)
    write_result(state.ema.model, run)
    after = psnr(state.ema.model, pictures.validation)
    print(f"channels scaled by {[round(factor, 3) for factor in factors.tolist()]}: {after:.2f} dB")


class AutoencoderStep:
    """One step: call it with its number and how much of the training is over; it gives the means to log."""

    def __init__(self, config: AutoencoderConfig, state: State, pictures: Pictures):
        self.config, self.state, self.pictures = config, state, pictures
        self.device = pictures.images.device
        side = pictures.images.shape[-1] // downscale(state.vae)
        self.latent_shape = config.batch_size, config.latent_channels, side, side
        updates = {phase: partial(self.update, critic=phase) for phase in CRITIC_PHASES}
        self.updates = {phase: recorded(update, self.device) for phase, update in updates.items()}

    def __call__(self, number: int, progress: float) -> dict[str, Tensor]:
        host, device = step_generators(self.config.seed, number, self.device)
        indices = torch.randint(len(self.pictures.images), (self.config.batch_size,), generator=host)
        least, most = self.config.latent_noise  # of which each image draws its own level
        level = least + (most - least) * torch.rand(len(indices), 1, 1, 1, generator=device, device=self.device)
        noise = level * torch.randn(self.latent_shape, generator=device, device=self.device)
        update = self.updates[self.critic_phase(progress)]
        return update(self.learning_rate(number, progress), float(number + 1), to_device(indices, self.device), noise)

    def learning_rate(self, number: int, progress: float) -> float:
        """Linear warm-up, then a cosine from all of it to 2%."""
        warmup = min(1.0, (number + 1) / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        return self.config.learning_rate * warmup * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)

    def critic_phase(self, progress: float) -> str:
        if self.state.adversary is None or progress < self.config.critic_from - HEAD_START:
            return "off"
        return "on" if progress >= self.config.critic_from else "learning"

    def update(
        self, learning_rate: float | Tensor, done: float | Tensor, indices: Tensor, noise: Tensor, *, critic: str
    ) -> dict[str, Tensor]:
        """The step as a function of numbers and tensors alone, so that a GPU's launches can be recorded.

        Args:
            done: steps, with this one. indices: (N,) of the images. noise: (N, C, h, w), added to their latents.
        """
        config, state = self.config, self.state
        x, labels = pixels_of(self.pictures.images[indices], self.device), self.pictures.labels[indices]
        with autocast(self.device):
            latents = encode(state.vae, x).float()
            y = decode(state.vae, latents + noise).float()
        reconstruction = reconstruction_loss(x, y, config.difference_weight)
        statistics = statistics_loss(latents)
        loss = reconstruction + config.statistics_weight * statistics
        if critic == "on":
            with autocast(self.device):
                term = state.adversary.term(y, labels, reconstruction, last=state.vae.decoder.layers[-1].weight)
            loss = loss + config.critic_weight * term
        loss.backward()
        state.apply_gradients(learning_rate, done)
        means = {"reconstruction": reconstruction.detach(), "statistics": statistics.detach()}
        if critic != "off":
            with autocast(self.device):
                real, fake = state.adversary.step(x, labels, y, labels)
            means |= {"critic_real": real, "critic_fake": fake}
        return means
