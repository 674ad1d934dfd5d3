"""Adversarial training of the decoder (VQGAN, arXiv:2012.09841, Eq. 5-7)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.distributed.collectives import means_over_ranks


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
    """``-mean fake``: the generator's side of the hinge loss, which VQGAN uses with both losses."""
    return -fake.mean()


def non_saturating(fake: Tensor) -> Tensor:
    """``mean softplus(-fake)``: the generator raises the log-probability of "real" (arXiv:1406.2661, section 3)."""
    return F.softplus(-fake).mean()


def non_saturating_mean(fake: Tensor) -> Tensor:
    """``mean softplus(-d)`` with d the mean logit of each image's patches (code of Open-MAGVIT2, IBQ and SimVQ)."""
    return non_saturating(fake.flatten(1).mean(1))


def fooling_squares(fake: Tensor) -> Tensor:
    """``½ mean (fake - 1)²``: the generator's side of ``least_squares`` (c = b)."""
    return 0.5 * (fake - 1).square().mean()


DISCRIMINATOR_LOSSES = {"hinge": hinge, "vanilla": vanilla, "least_squares": least_squares}
GENERATOR_LOSSES = {
    "linear": linear,
    "non_saturating": non_saturating,
    "non_saturating_mean": non_saturating_mean,
    "least_squares": fooling_squares,
}


class Regularizer(nn.Module, ABC):
    """Further term of the discriminator's loss.

    Attributes:
        every: Applied every ``every`` updates.
    """

    every: int

    @abstractmethod
    def forward(self, discriminate: Callable[[Tensor], Tensor], images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """Computes the unweighted scalar. Pure: changes no buffer.

        Args:
            discriminate: Function from images to float32 logits, with the augmentation of the discriminator's loss.
            images: Real images (b, c, H, W) in [-1, 1].
            real: Logits of the real images (b, ...), float32.
            fake: Logits of the reconstructions.
        """

    @abstractmethod
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Updates its state with the mean logits of an update's real images and reconstructions, over all ranks."""


class DiscriminatorResult(NamedTuple):
    """Losses of the discriminator on a batch, with the logits."""

    terms: dict[str, Tensor]  # unweighted scalars, named as they are weighted and logged
    real: Tensor  # (b, ...) float32, detached
    fake: Tensor

    def stats(self) -> dict[str, Tensor]:
        """Sums over batches and ranks that ``Adversary.update`` needs."""
        return {"real": self.real.mean(), "fake": self.fake.mean(), "batches": torch.ones_like(self.real.mean())}

    def accuracy(self) -> dict[str, Tensor]:
        """Shares of logits with the right sign."""
        return {
            "accuracy_real": (self.real > 0).float().mean(),
            "accuracy_fake": (self.fake < 0).float().mean(),
        }


class GeneratorResult(NamedTuple):
    """Adversarial loss of the decoder on a batch, with its gradient."""

    term: Tensor  # the adversarial loss, a scalar
    gradient: Tensor  # its gradient at the decoder's output
    logits: Tensor | None  # logits of the reconstruction with their graph, where ``discriminator_step`` may use them


class Adversary(nn.Module):
    """Discriminator with its losses, and the schedule and weight of the decoder's adversarial loss.

    Args:
        discriminator: Network from images to logits of any shape, high for real ones. Its frozen parameters stay
            frozen.
        loss: Loss of the discriminator: ``hinge``, ``vanilla`` or ``least_squares``.
        generator_loss: Loss of the decoder: ``linear``, ``non_saturating``, ``non_saturating_mean`` or
            ``least_squares``.
        start: Update from which both losses apply.
        warmup: Updates after the start over which the weight of the decoder's loss rises linearly to its full value;
            the discriminator's weight is full from the start.
        adaptive: True scales the decoder's loss by the gradient ratio of ``adaptive_weight``.
        max_weight: Upper limit of that ratio: 1e4 in VQGAN, 0.75 in DQ-VAE.
        augmentation: Augmentation of real images and reconstructions before the discriminator, such as ``DiffAug``.
        regularizers: Further terms of the discriminator's loss by name, such as ``R1`` and ``LeCam``.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Literal["hinge", "vanilla", "least_squares"] = "hinge",
        generator_loss: Literal["linear", "non_saturating", "non_saturating_mean", "least_squares"] = "linear",
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
        """Names of all terms that need a weight."""
        return ("adversarial", "discriminator", *self.regularizers)

    @property
    def frozen(self) -> list[str]:
        """Names of parts whose parameters are all frozen; checkpoints omit them."""
        trained = {id(parameter) for parameter in self.trained}
        owned = {name: {id(p) for p in part.parameters()} for name, part in self.named_modules() if name}
        return [name for name, parameters in owned.items() if parameters and not parameters & trained]

    @property
    def repeatable(self) -> bool:
        """True if the same images always get the same logits, so that both sides' losses may share them.

        A discriminator declares this by an attribute ``repeatable``: nothing in it is random or changes at each call.
        (The statistics that batch norms keep for evaluation do change, but training does not read them; shared logits
        count there once.)
        """
        return isinstance(self.augmentation, nn.Identity) and getattr(self.discriminator, "repeatable", False)

    @property
    def independent(self) -> bool:
        """True if an image's logits depend on no other image, so that both sides of an update may be one batch.

        A discriminator declares this by an attribute ``independent``: it has no statistics of batches.
        """
        return getattr(self.discriminator, "independent", False)

    def check_sizes(self, sizes: Iterable[tuple[int, int]], name: str) -> None:
        """Refuses sizes (H, W) of images that the discriminator does not accept.

        A discriminator declares by an attribute ``only_size`` that it accepts images of this size (H, W) only.

        Args:
            sizes: The sizes.
            name: The user's option for them, for the message.

        Raises:
            ValueError: A size is another one.
        """
        only = getattr(self.discriminator, "only_size", None)
        if only is not None and any(tuple(size) != only for size in sizes):
            raise ValueError(
                f"{name}: the discriminator {type(self.discriminator).__name__} accepts only images of "
                f"{only[0]}x{only[1]} pixels; discriminator=patchgan and discriminator=dino accept all sizes"
            )

    def learns(self, on: bool) -> None:
        """Switches the gradients of the discriminator's parameters on or off; the decoder's loss does not need them."""
        for parameter in self.trained:
            parameter.requires_grad_(on)

    def strength(self, update: int) -> float:
        """Warm-up factor of the decoder's loss, in (0, 1]."""
        return min(1.0, (update - self.start + 1) / self.warmup) if self.warmup else 1.0

    def discriminate(self, images: Tensor) -> Tensor:
        """Logits of augmented images in float32."""
        return self.discriminator(self.augmentation(images)).float()

    def discriminate_both(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of real images and reconstructions, both (b, c, H, W): in one pass if they are ``independent``.

        A discriminator with spectral norms then takes one step of their power iterations, not two.
        """
        if not self.independent:
            return self.discriminate(images), self.discriminate(reconstruction)
        both = torch.cat([self.augmentation(images), self.augmentation(reconstruction)])  # drawn as in two passes
        real, fake = self.discriminator(both).float().chunk(2)
        return real, fake

    def generator_step(self, output: Tensor, to_images: Callable[[Tensor], Tensor]) -> GeneratorResult:
        """Computes the adversarial loss of the decoder and its gradient at ``output``, before ``discriminator_step``.

        Args:
            output: The decoder's output, at which gradients stop.
            to_images: Function from the output to images, evaluated again because the graph of other losses may be
                freed.
        """
        shared = self.repeatable
        self.learns(shared)
        logits = self.discriminate(to_images(output))
        term = self.generator(logits)
        (gradient,) = torch.autograd.grad(term, output, retain_graph=shared)
        return GeneratorResult(term, gradient, logits if shared else None)

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """Adversarial loss of the decoder. The discriminator's parameters need no gradients here: ``learns(False)``."""
        return self.generator(self.discriminate(reconstruction))

    def discriminator_step(
        self, reconstruction: Tensor, images: Tensor, update: int, fake: Tensor | None = None
    ) -> DiscriminatorResult:
        """Computes the losses of the discriminator in an update. Call it after ``generator_step``.

        Args:
            reconstruction: Reconstruction of the images; gradients stop here.
            images: (b, c, H, W) in [-1, 1].
            update: Number of the update, for regularizers that are not applied in each one.
            fake: Logits of the reconstruction with their graph, if known and the adversary is ``repeatable``; the
                discriminator then does not process the reconstruction again.
        """
        self.learns(True)
        if fake is None:
            real, fake = self.discriminate_both(images, reconstruction.detach())
        else:
            real = self.discriminate(images)
        terms = {"discriminator": self.loss(real, fake)}
        for name, regularizer in self.regularizers.items():
            if update % regularizer.every == 0:
                terms[name] = regularizer(self.discriminate, images, real, fake)
        return DiscriminatorResult(terms, real.detach(), fake.detach())

    def update(self, stats: Mapping[str, Tensor]) -> None:
        """Passes an update's mean logits to the regularizers; ``stats`` are sums over its batches and all ranks."""
        for regularizer in self.regularizers.values():
            regularizer.update(stats["real"] / stats["batches"], stats["fake"] / stats["batches"])


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, maximum: float = 1e4) -> Tensor:
    """``|∂reconstruction/∂w| / (|∂adversarial/∂w| + 1e-4)``, w the decoder's last layer (arXiv:2012.09841, Eq. 7).

    This is the plain form, with two backward passes through all layers after w. The training step already has these
    gradients at the decoder's output and needs only ``gradient_ratio``.

    Args:
        reconstruction: Weighted sum of the image losses, a scalar.
        adversarial: Loss of the generator, a scalar.
        last_layer: The weight w.
        maximum: The ratio is clamped to [0, maximum].
    """
    losses = (reconstruction, adversarial)
    image, gan = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses)
    return gradient_ratio(image, gan, maximum)


def gradient_ratio(image_gradient: Tensor, gan_gradient: Tensor, maximum: float = 1e4) -> Tensor:
    """``|image_gradient| / (|gan_gradient| + 1e-4)``, clamped to [0, maximum]: the adaptive weight, a float32 scalar.

    Gradients rather than norms are averaged over ranks, so that N processes get the same weight as one.
    """
    means = means_over_ranks({"image": image_gradient.float(), "gan": gan_gradient.float()})
    return (means["image"].norm() / (means["gan"].norm() + 1e-4)).clamp(0, maximum).detach()
