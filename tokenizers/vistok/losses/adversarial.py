"""Adversarial training of the decoder (VQGAN, arXiv:2012.09841, Eq. 5-7)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.ranks import mean_over_ranks


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """``½ (mean relu(1 - real) + mean relu(1 + fake))`` of the discriminator's logits (arXiv:1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def vanilla(real: Tensor, fake: Tensor) -> Tensor:
    """``½ (mean softplus(-real) + mean softplus(fake))``: cross-entropy on the logits (arXiv:1406.2661, Eq. 1)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def linear(fake: Tensor) -> Tensor:
    """``-mean fake``: the generator's side of the hinge loss, and VQGAN's of either."""
    return -fake.mean()


def non_saturating(fake: Tensor) -> Tensor:
    """``mean softplus(-fake)``: the generator raises the log-probability of "real" (arXiv:1406.2661, section 3)."""
    return F.softplus(-fake).mean()


DISCRIMINATOR_LOSSES = {"hinge": hinge, "vanilla": vanilla}
GENERATOR_LOSSES = {"linear": linear, "non_saturating": non_saturating}


class Adversary(nn.Module):
    """A discriminator, its losses, and when and how strongly the decoder feels them.

    Args:
        discriminator: Images to logits of any shape, high for real ones.
        loss: The discriminator's loss: ``hinge`` or ``vanilla``.
        generator_loss: The decoder's: ``linear`` or ``non_saturating``.
        start: Update from which both take part.
        adaptive: Scale the decoder's loss by the gradient ratio of ``adaptive_weight``.
        max_weight: Clamp of that ratio: 1e4 in VQGAN, 0.75 in DQ-VAE.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: str = "hinge",
        generator_loss: str = "linear",
        start: int = 0,
        adaptive: bool = False,
        max_weight: float = 1e4,
    ):
        super().__init__()
        if loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(f"loss must be one of {', '.join(DISCRIMINATOR_LOSSES)}, not {loss!r}")
        if generator_loss not in GENERATOR_LOSSES:
            raise ValueError(f"generator_loss must be one of {', '.join(GENERATOR_LOSSES)}, not {generator_loss!r}")
        self.discriminator = discriminator
        self.loss, self.generator = DISCRIMINATOR_LOSSES[loss], GENERATOR_LOSSES[generator_loss]
        self.start, self.adaptive, self.max_weight = start, adaptive, max_weight

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """What the decoder minimises. The discriminator's own gradients are not wanted here: freeze it."""
        return self.generator(self.discriminator(reconstruction).float())

    def discriminator_loss(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """What the discriminator minimises; gradients stop at the reconstruction."""
        real = self.discriminator(images).float()
        fake = self.discriminator(reconstruction.detach()).float()
        return self.loss(real, fake)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, maximum: float = 1e4) -> Tensor:
    """``|∂reconstruction/∂w| / (|∂adversarial/∂w| + 1e-4)``, w the decoder's last layer (arXiv:2012.09841, Eq. 7).

    Gradients, not norms, are averaged over ranks first, so that N processes get the weight of one.

    Args:
        reconstruction: The weighted sum of the image losses, a scalar.
        adversarial: The generator's loss, a scalar.
        last_layer: The weight w.
        maximum: The ratio is clamped to [0, maximum].
    """
    image_gradient, gan_gradient = (
        mean_over_ranks(torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float())
        for loss in (reconstruction, adversarial)
    )
    return (image_gradient.norm() / (gan_gradient.norm() + 1e-4)).clamp(0, maximum).detach()
