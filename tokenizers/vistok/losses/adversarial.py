"""Adversarial training of the decoder (VQGAN, arXiv:2012.09841, Eq. 5-7)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.distributed.collectives import mean_over_ranks


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """``½ (mean relu(1 - real) + mean relu(1 + fake))`` of the discriminator's logits (arXiv:1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def vanilla(real: Tensor, fake: Tensor) -> Tensor:
    """``½ (mean softplus(-real) + mean softplus(fake))``: cross-entropy on the logits (arXiv:1406.2661, Eq. 1)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """``½ (mean (real - 1)² + mean (fake + 1)²)`` (LSGAN, arXiv:1611.04076, Eq. 2 with a = -1, b = 1)."""
    return 0.5 * ((real - 1).square().mean() + (fake + 1).square().mean())


def linear(fake: Tensor) -> Tensor:
    """``-mean fake``: the generator's side of the hinge loss, and VQGAN's of either."""
    return -fake.mean()


def non_saturating(fake: Tensor) -> Tensor:
    """``mean softplus(-fake)``: the generator raises the log-probability of "real" (arXiv:1406.2661, section 3)."""
    return F.softplus(-fake).mean()


def fooling_squares(fake: Tensor) -> Tensor:
    """``½ mean (fake - 1)²``: the generator's side of ``least_squares`` (c = b)."""
    return 0.5 * (fake - 1).square().mean()


DISCRIMINATOR_LOSSES = {"hinge": hinge, "vanilla": vanilla, "least_squares": least_squares}
GENERATOR_LOSSES = {"linear": linear, "non_saturating": non_saturating, "least_squares": fooling_squares}


class Regularizer(nn.Module, ABC):
    """A further term of the discriminator's loss.

    Attributes:
        every: It takes part in every so manieth update.
    """

    every: int

    @abstractmethod
    def forward(self, discriminate: Callable[[Tensor], Tensor], images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """The unweighted scalar. Pure: changes no buffer of its own.

        Args:
            discriminate: Images to float32 logits, as the discriminator's loss sees them (augmented).
            images: Real images (b, c, H, W) in [-1, 1].
            real: Their logits (b, ...), float32.
            fake: Those of the reconstructions.
        """

    @abstractmethod
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Learn from the mean logits of an update's real images and reconstructions, over all ranks."""


class Verdict(NamedTuple):
    """The discriminator's losses on a batch, and the logits they come from."""

    terms: dict[str, Tensor]  # unweighted scalars, named as they are weighted and logged
    real: Tensor  # (b, ...) float32, detached
    fake: Tensor

    def stats(self) -> dict[str, Tensor]:
        """What ``Adversary.update`` needs; sums over batches and ranks."""
        return {"real": self.real.mean(), "fake": self.fake.mean(), "batches": torch.ones_like(self.real.mean())}

    def accuracy(self) -> dict[str, Tensor]:
        """The shares of logits on the right side of 0."""
        return {
            "accuracy_real": (self.real > 0).float().mean(),
            "accuracy_fake": (self.fake < 0).float().mean(),
        }


class Challenge(NamedTuple):
    """The decoder's side of an update."""

    term: Tensor  # the adversarial loss, a scalar
    gradient: Tensor  # of it, at what the decoder made
    logits: Tensor | None  # of the reconstruction, with the discriminator's graph, where ``judge`` may take them


class Adversary(nn.Module):
    """A discriminator, its losses, and when and how strongly the decoder feels them.

    Args:
        discriminator: Images to logits of any shape, high for real ones. Parameters that it has frozen stay so.
        loss: The discriminator's loss: ``hinge``, ``vanilla`` or ``least_squares``.
        generator_loss: The decoder's: ``linear``, ``non_saturating`` or ``least_squares``.
        start: Update from which both take part.
        warmup: Updates after the start over which the weight of the decoder's loss rises linearly to its full value,
            while the discriminator learns at its full rate.
        adaptive: Scale the decoder's loss by the gradient ratio of ``adaptive_weight``.
        max_weight: Clamp of that ratio: 1e4 in VQGAN, 0.75 in DQ-VAE.
        augmentation: What real images and reconstructions alike pass through on their way to the discriminator, such
            as ``DiffAug``.
        regularizers: Further terms of the discriminator by name, such as ``R1`` and ``LeCam``.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: str = "hinge",
        generator_loss: str = "linear",
        start: int = 0,
        warmup: int = 0,
        adaptive: bool = False,
        max_weight: float = 1e4,
        augmentation: nn.Module | None = None,
        regularizers: Mapping[str, Regularizer] | None = None,
    ):
        super().__init__()
        if loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(f"loss must be one of {', '.join(DISCRIMINATOR_LOSSES)}, not {loss!r}")
        if generator_loss not in GENERATOR_LOSSES:
            raise ValueError(f"generator_loss must be one of {', '.join(GENERATOR_LOSSES)}, not {generator_loss!r}")
        if warmup < 0:
            raise ValueError(f"warmup must be 0 or more updates, not {warmup}")
        self.discriminator = discriminator
        self.loss, self.generator = DISCRIMINATOR_LOSSES[loss], GENERATOR_LOSSES[generator_loss]
        self.start, self.warmup, self.adaptive, self.max_weight = start, warmup, adaptive, max_weight
        self.augmentation = augmentation or nn.Identity()
        self.regularizers = cast(Mapping[str, Any], nn.ModuleDict(regularizers or {}))
        self.trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Every term that needs a weight."""
        return ("adversarial", "discriminator", *self.regularizers)

    @property
    def frozen(self) -> list[str]:
        """The names of parts that have parameters, none of them trained; checkpoints leave them out."""
        trained = {id(parameter) for parameter in self.trained}
        owned = {name: {id(p) for p in part.parameters()} for name, part in self.named_modules() if name}
        return [name for name, parameters in owned.items() if parameters and not parameters & trained]

    @property
    def repeatable(self) -> bool:
        """Whether the same images get the same logits again, so that both sides' losses may share them.

        A discriminator says so with an attribute ``repeatable``: nothing in it is random, or moves at each call. (What
        batch norms keep for evaluation moves, but nothing in training reads it: shared logits count there once.)
        """
        return isinstance(self.augmentation, nn.Identity) and getattr(self.discriminator, "repeatable", False)

    def learns(self, on: bool) -> None:
        """Whether the discriminator's own gradients are wanted: not for the decoder's loss."""
        for parameter in self.trained:
            parameter.requires_grad_(on)

    def strength(self, update: int) -> float:
        """The warm-up's factor of the decoder's loss, in (0, 1]."""
        return min(1.0, (update - self.start + 1) / self.warmup) if self.warmup else 1.0

    def discriminate(self, images: Tensor) -> Tensor:
        """Augmented images to logits in float32."""
        return self.discriminator(self.augmentation(images)).float()

    def challenge(self, seen: Tensor, show: Callable[[Tensor], Tensor]) -> Challenge:
        """The decoder's side of an update, first of the two calls: gradients stop at ``seen``.

        Args:
            seen: What the decoder made, a tensor that gradients reach.
            show: From that to images, called anew, since the graph of other losses may be gone.
        """
        shared = self.repeatable
        self.learns(shared)
        logits = self.discriminate(show(seen))
        term = self.generator(logits)
        (gradient,) = torch.autograd.grad(term, seen, retain_graph=shared)
        return Challenge(term, gradient, logits if shared else None)

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """What the decoder minimises. The discriminator's own gradients are not wanted here: ``learns(False)``."""
        return self.generator(self.discriminate(reconstruction))

    def judge(self, reconstruction: Tensor, images: Tensor, update: int, fake: Tensor | None = None) -> Verdict:
        """What the discriminator minimises in an update, the second of the two calls.

        Args:
            reconstruction: Of the images; gradients stop here.
            images: (b, c, H, W) in [-1, 1].
            update: For regularizers that do not take part in every one.
            fake: The reconstruction's logits with their graph, where they are known and the adversary is
                ``repeatable``: the discriminator then does not run on it again.
        """
        self.learns(True)
        real = self.discriminate(images)
        fake = self.discriminate(reconstruction.detach()) if fake is None else fake
        terms = {"discriminator": self.loss(real, fake)}
        for name, regularizer in self.regularizers.items():
            if update % regularizer.every == 0:
                terms[name] = regularizer(self.discriminate, images, real, fake)
        return Verdict(terms, real.detach(), fake.detach())

    def update(self, stats: Mapping[str, Tensor]) -> None:
        """Hand an update's mean logits to the regularizers; ``stats`` are sums over its batches and all ranks."""
        for regularizer in self.regularizers.values():
            regularizer.update(stats["real"] / stats["batches"], stats["fake"] / stats["batches"])


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, maximum: float = 1e4) -> Tensor:
    """``|∂reconstruction/∂w| / (|∂adversarial/∂w| + 1e-4)``, w the decoder's last layer (arXiv:2012.09841, Eq. 7).

    The plain form, two backward passes through all that follows w. The training step has these gradients at the
    decoder's output already, and needs ``gradient_ratio`` alone.

    Args:
        reconstruction: The weighted sum of the image losses, a scalar.
        adversarial: The generator's loss, a scalar.
        last_layer: The weight w.
        maximum: The ratio is clamped to [0, maximum].
    """
    losses = (reconstruction, adversarial)
    image, gan = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses)
    return gradient_ratio(image, gan, maximum)


def gradient_ratio(image_gradient: Tensor, gan_gradient: Tensor, maximum: float = 1e4) -> Tensor:
    """``|image_gradient| / (|gan_gradient| + 1e-4)``, clamped to [0, maximum]: the adaptive weight, a float32 scalar.

    Gradients, not norms, are averaged over ranks first, so that N processes get the weight of one.
    """
    image_gradient, gan_gradient = (mean_over_ranks(gradient.float()) for gradient in (image_gradient, gan_gradient))
    return (image_gradient.norm() / (gan_gradient.norm() + 1e-4)).clamp(0, maximum).detach()
