"""The loss on held-out images under draws that are the same for every model: what tells two trainings apart.

The training loss is noisy and differs in its weights from recipe to recipe. Here every model gets the same latents, the
same timesteps and the same noise, and every timestep comes equally often: what differs is the models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS, Diffusion
from mdt_core.losses import training_terms
from mdt_core.training.draws import LatentData

MIN_SNR_GAMMA = 5.0  # of the weighted loss, whatever the model was trained with


@dataclass(frozen=True)
class ValidationDraws:
    """D noised latents, four for each image."""

    x_0: Tensor  # (D, C, h, w)
    class_labels: Tensor  # (D,)
    timesteps: Tensor  # (D,)
    noise: Tensor  # (D, C, h, w)

    @classmethod
    def of(
        cls, data: LatentData, num_images: int = 1024, per_image: int = 4, labelled: bool = True, seed: int = 0
    ) -> "ValidationDraws":
        """Draw for up to `num_images` images, evenly spread over the set, `per_image` times each.

        Args:
            labelled: whether the model knows classes; where it knows none, its null class is 0.
        """
        count = min(num_images, len(data))
        mean, std, labels = (
            x.repeat_interleave(per_image, 0) for x in data.batch([i * len(data) // count for i in range(count)])
        )
        g = torch.Generator().manual_seed(seed)
        timesteps = torch.randperm(len(mean), generator=g) * NUM_TIMESTEPS // len(mean)
        posterior, noise = torch.randn(2, *mean.shape, generator=g)
        return cls(mean + std * posterior, labels if labelled else torch.zeros_like(labels), timesteps, noise)

    def __len__(self) -> int:
        return len(self.x_0)


@torch.inference_mode()
def validation_losses(model: torch.nn.Module, draws: ValidationDraws, batches: list[range], device) -> Tensor:
    """The epsilon error of the draws in `batches`; the model sees all tokens.

    Args:
        model: in evaluation mode, on `device`.
        draws: the draws of which `batches` are indices.

    Returns:
        (2, n): the mean squared error as it is, and weighted by min-SNR with gamma 5.
    """
    diffusion, losses = Diffusion(), [torch.empty(2, 0)]
    for batch in batches:
        part = (x[list(batch)].to(device) for x in (draws.x_0, draws.timesteps, draws.class_labels, draws.noise))
        x_0, timesteps, class_labels, noise = part
        mse = training_terms(model, diffusion, x_0, timesteps, class_labels, noise, min_snr_gamma=None)["mse"]
        losses.append(torch.stack([mse, mse * diffusion.min_snr_weight(timesteps, MIN_SNR_GAMMA)]).cpu())
    return torch.cat(losses, 1)
