"""What the small autoencoder's images are held to: the originals, and a critic of patches.

No perceptual network is used, so that the judge of `train.evaluate` stays independent of what it judges.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdt_core.training.optimizers import AdamW


class PatchCritic(nn.Module):
    """Realism of overlapping patches of 38 x 38 pixels, as images of their class.

    A score of the patch plus, per class, a linear one of its features (projection: arXiv 1802.05637, equation 3).
    Group norms, not spectral ones: with those it told nothing apart in 1,500 steps.
    """

    def __init__(self, num_classes: int, width: int = 48):
        super().__init__()

        def layer(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1)
            return [conv, nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2)]

        self.features = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, padding=1),  # no norm, which would hide the level of a flat colour
            nn.LeakyReLU(0.2),
            *layer(width, 2 * width, 4, 2),
            *layer(2 * width, 2 * width, 4, 2),
            *layer(2 * width, 2 * width, 3, 1),
        )
        self.score = nn.Conv2d(2 * width, 1, 1)
        self.of_class = nn.Embedding(num_classes, 2 * width)
        nn.init.zeros_(self.of_class.weight)

    def forward(self, pixels: Tensor, class_labels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) in [-1, 1], class_labels (N,) -> (N, 1, H/8, W/8); real ones score high."""
        features = self.features(pixels)
        of_class = torch.einsum("nchw,nc->nhw", features, self.of_class(class_labels))
        return self.score(features) + of_class.unsqueeze(1)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises over scores of real and of decoded images."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def reconstruction_loss(x: Tensor, y: Tensor, difference_weight: float = 0.5) -> Tensor:
    """Mean |x - y|, plus the weighted mean |d(x - y)| of the differences d between neighbouring pixels.

    The second term holds on to thin lines and, with a larger weight, makes flat areas flat.
    """
    dx, dy = (x - y).diff(dim=3), (x - y).diff(dim=2)
    return (x - y).abs().mean() + difference_weight * (dx.abs().mean() + dy.abs().mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Ratio of the two losses' gradient norms at the last layer (arXiv 2012.09841, equation 7)."""
    g_rec, g_adv = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial))
    return (g_rec.norm() / (g_adv.norm() + 1e-6)).clamp(max=1e3).detach()


def adamw(
    weights: Iterable[Tensor], lr: float, betas: tuple[float, float], max_grad_norm: float | None = None
) -> AdamW:
    """AdamW without decay; on a GPU, one whose steps can be recorded, and whose rate may be a tensor."""
    weights = list(weights)
    settings = {"weight_decay": 0.0, "max_grad_norm": max_grad_norm, "capturable": weights[0].is_cuda}
    return AdamW(weights, lr=lr, betas=betas, **settings)


class Adversary:
    """A `PatchCritic` and its optimizer: its term in the decoder's loss, and its own step."""

    def __init__(self, num_classes: int, lr: float, device: torch.device):
        self.critic = PatchCritic(num_classes).to(device, memory_format=torch.channels_last)
        self.optimizer = adamw(self.critic.parameters(), lr, (0.5, 0.99))

    def term(self, fake: Tensor, class_labels: Tensor, reconstruction: Tensor, last: Tensor) -> Tensor:
        """The decoder's adversarial loss, with as large a gradient at its `last` weight as the `reconstruction` loss.

        Args:
            fake: (N, 3, H, W) decoded pixels, with their graph.
            class_labels: (N,).
        """
        self.critic.requires_grad_(False)
        adversarial = -self.critic(fake, class_labels).mean()
        self.critic.requires_grad_(True)
        return adaptive_weight(reconstruction, adversarial, last) * adversarial

    def step(self, real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the critic on real pixels (M, 3, H, W) and decoded ones (N, 3, H, W): their mean scores."""
        pixels, class_labels = torch.cat([real, fake.detach()]), torch.cat([real_labels, fake_labels])
        of_real, of_fake = self.critic(pixels, class_labels).split([len(real), len(fake)])
        hinge_loss(of_real, of_fake).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return of_real.detach().mean(), of_fake.detach().mean()
