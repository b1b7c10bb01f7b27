"""What the autoencoder's training and its decoder's tuning share: pictures and the state.

A checkpoint of either holds vae/, the averaged weights, and what serves to resume; the run's own vae/ is there at the
end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor

from mdt_core.runs import Run, write_whole
from mdt_core.training.checkpoints import save_tensors
from mdt_core.training.ema import EMA
from mdt_core.training.loop import explain_write_errors
from mdt_core.training.optimizers import AdamW, load_optimizer_tensors, optimizer_tensors
from train.autoencoder.adversary import Adversary, adamw
from train.autoencoder.config import StageConfig
from train.autoencoder.model import make_output_precise, pixels_of, psnr
from train.export import save_autoencoder
from train.latents.images import DrawnImages

MEASURED = 512  # validation images whose reconstructions are measured


@dataclass(frozen=True)
class Pictures:
    """A drawn set in a device's memory."""

    images: Tensor  # (M, 3, H, W) uint8
    labels: Tensor  # (M,)
    num_classes: int
    validation: Tensor  # (N, 3, H, W) in [-1, 1]
    digest: str  # of the whole training set, as latents of it note

    @classmethod
    def open(cls, folder: str, num_images: int | None, device: torch.device) -> "Pictures":
        """What train.avatars wrote; of the training images the first `num_images`, or all."""
        training, validation = (DrawnImages(Path(folder), split) for split in ("train", "validation"))
        arrays = training.split.images[:num_images], training.split.labels[:num_images]
        images, labels = (torch.from_numpy(array).to(device) for array in arrays)
        measured = pixels_of(validation.split.images[:MEASURED], device)
        return cls(images, labels, len(training.id2label), measured, training.digest)


@dataclass(frozen=True)
class State:
    """Everything that a step changes."""

    vae: AutoencoderTiny
    ema: EMA
    optimizer: AdamW
    adversary: Adversary | None

    @classmethod
    def start(
        cls,
        vae: AutoencoderTiny,
        weights: Iterable[Tensor],
        betas: tuple[float, float],
        config: StageConfig,
        num_classes: int,
        device: torch.device,
    ) -> "State":
        """Before the first step: of a `vae` whose `weights` are trained, with a critic where it has a weight."""
        weights = list(weights)
        make_output_precise(vae)
        vae = vae.to(device, memory_format=torch.channels_last)
        critic = Adversary(num_classes, config.critic_learning_rate, device) if config.critic_weight > 0 else None
        optimizer = adamw(weights, config.learning_rate, betas, max_grad_norm=1.0)
        return cls(vae, EMA(vae, config.ema_decay), optimizer, critic)

    def apply_gradients(self, learning_rate: float | Tensor, done: float | Tensor) -> None:
        """Move the weights by their gradients, and the average after them; `done`: steps, with this one."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()  # clips; takes no step where the gradient is not finite
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.vae, done, self.optimizer.taken)

    def measure(self, pictures: Pictures) -> dict[str, float]:
        """What the log says of the averaged weights."""
        return {"psnr": psnr(self.ema.model, pictures.validation)}

    def save(self, folder: Path) -> None:
        """Fill a checkpoint's folder."""
        save_autoencoder(self.ema.model, folder / "vae")
        save_tensors(self.vae.state_dict(), folder / "raw.safetensors")
        save_tensors(optimizer_tensors(self.optimizer), folder / "optimizer.safetensors")
        if self.adversary is not None:
            save_tensors(self.adversary.critic.state_dict(), folder / "critic.safetensors")
            save_tensors(optimizer_tensors(self.adversary.optimizer), folder / "critic_optimizer.safetensors")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place."""
        self.ema.model.load_state_dict(AutoencoderTiny.from_pretrained(folder / "vae").state_dict())
        self.vae.load_state_dict(load_file(folder / "raw.safetensors"))
        _load_optimizer(self.optimizer, folder / "optimizer.safetensors")
        if self.adversary is not None:
            self.adversary.critic.load_state_dict(load_file(folder / "critic.safetensors"))
            _load_optimizer(self.adversary.optimizer, folder / "critic_optimizer.safetensors")


def _load_optimizer(optimizer: AdamW, path: Path) -> None:
    load_optimizer_tensors(optimizer, load_file(path))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:  # in memory, too, it must lie as the parameter does
                values[name] = torch.empty_like(parameter).copy_(value)


def write_result(vae: AutoencoderTiny, run: Run) -> None:
    """Write the run's vae/, which is what training is for."""
    with explain_write_errors(run):
        write_whole(run.folder / "vae", partial(save_autoencoder, vae))
