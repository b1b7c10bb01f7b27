"""What pictures are held to: that the critic looks at the class, and how much it has to say."""

import pytest
import torch
from torch import nn

from train.autoencoder.adversary import Adversary, PatchCritic, hinge_loss, reconstruction_loss

CPU = torch.device("cpu")


def test_the_critic_learns_which_style_a_picture_has():
    """Catches a critic that never looks at the class."""
    torch.manual_seed(0)
    critic = PatchCritic(2, width=8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    colours = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1).expand(2, 3, 64, 64)  # class 0 is dark, class 1 light
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    for _ in range(60):
        optimizer.zero_grad()
        hinge_loss(critic(colours, right), critic(colours, wrong)).backward()
        optimizer.step()
    assert (critic(colours, right).mean((1, 2, 3)) > critic(colours, wrong).mean((1, 2, 3))).all()


def test_the_adversarial_term_is_as_steep_as_the_reconstruction_and_leaves_the_critic_alone():
    """Catches a weight upside down, and a critic that is trained towards the decoder's wish."""
    torch.manual_seed(0)
    x, labels, decoder = torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), nn.Conv2d(3, 3, 3, padding=1)
    adversary, y = Adversary(2, 1e-3, CPU), decoder(x)
    reconstruction = reconstruction_loss(x, y)
    term = adversary.term(y, labels, reconstruction, decoder.weight)
    steep = [torch.autograd.grad(loss, decoder.weight, retain_graph=True)[0].norm() for loss in (reconstruction, term)]
    torch.testing.assert_close(*steep, rtol=1e-2, atol=0)
    term.backward()
    assert all(weight.grad is None and weight.requires_grad for weight in adversary.critic.parameters())


def test_a_step_of_the_critic_raises_real_pictures_above_made_ones():
    """Catches real and made scores swapped, of two batches of unequal size."""
    torch.manual_seed(0)
    adversary = Adversary(2, 1e-3, CPU)
    real, fake = torch.rand(3, 3, 32, 32), -torch.rand(2, 3, 32, 32)
    scores = [adversary.step(real, torch.tensor([0, 1, 0]), fake, torch.tensor([0, 1])) for _ in range(8)]
    of_real, of_fake = scores[-1]
    assert of_real - of_fake > 0.2 + (scores[0][0] - scores[0][1])
    assert not of_real.requires_grad


def test_a_constant_error_is_its_own_reconstruction_loss():
    pictures = torch.rand(4, 3, 16, 16)
    assert reconstruction_loss(pictures, pictures) == 0
    assert reconstruction_loss(pictures, pictures + 0.1).item() == pytest.approx(0.1, rel=1e-4)
