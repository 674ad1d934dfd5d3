"""Gradient estimators for the non-differentiable codeword choice.

An estimator takes the latent that was quantized and the codewords chosen for it, both (b, d, h, w), and returns the
decoder's input in training. In evaluation that input is always the codeword.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Estimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StraightThrough:
    """Returns the codeword and passes the decoder's gradient to the latent (VQ-VAE, arXiv:1711.00937, section 3.2)."""

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        return with_gradient_of(z_q, z)


@dataclass(frozen=True)
class RotationTrick:
    """Returns the codeword; rotates the gradient by the angle from it to the latent (arXiv:2410.06424, section 4.2).

    The codeword is written as ``scale · R z``, where ``R`` rotates z's direction to the codeword's; ``R`` and ``scale``
    are constants for the gradient.

    Attributes:
        least_norm: Smallest norm used as a divisor, so that vectors near zero have finite gradients.
    """

    least_norm: float = 1e-6

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        with torch.no_grad():
            length, length_q = (v.norm(dim=1, keepdim=True).clamp(min=self.least_norm) for v in (z, z_q))
            unit, unit_q = z / length, z_q / length_q
            middle = unit + unit_q
            middle = middle / middle.norm(dim=1, keepdim=True).clamp(min=self.least_norm)
            scale = length_q / length
        along_middle = (z * middle).sum(1, keepdim=True)
        along_z = (z * unit).sum(1, keepdim=True)
        return with_gradient_of(z_q, scale * (z - 2 * along_middle * middle + 2 * along_z * unit_q))


@dataclass(frozen=True)
class DiVeQ:
    """Moves the latent by its distance to the codeword, nearly in its direction (DiVeQ, ICLR 2026; its code).

    The distance has gradients to latent and codeword, so the decoder trains both and no other loss is needed: set the
    weights of ``commitment`` and ``codebook`` to 0. The direction is constant for the gradient.

    Attributes:
        std: Standard deviation of the normal noise on the direction: 1e-3 in the authors' code, which calls it a
            variance. 0 is their ``detach`` variant.
    """

    std: float = 1e-3

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        return self.moved(z, z_q, torch.randn_like(z) * self.std if self.std else torch.zeros_like(z))

    @staticmethod
    def moved(z: Tensor, z_q: Tensor, noise: Tensor) -> Tensor:
        """``z + |z_q - z| · u`` with ``u`` the constant direction of ``z_q - z + noise``."""
        direction = torch.nn.functional.normalize((z_q - z + noise).detach(), dim=1)
        return z + torch.linalg.vector_norm(z_q - z, dim=1, keepdim=True) * direction


@dataclass(frozen=True)
class CodewordGradient:
    """Returns the codeword with its gradient: the decoder trains the codebook and, unlike straight-through, no encoder.

    For codebooks with frozen networks (``model.trainable=codebook``), where a gradient to the latent would be lost.
    """

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        return z_q


def with_gradient_of(value: Tensor, source: Tensor) -> Tensor:
    """``value``, bit-equal, with the gradient of ``source``: ``source + (value - source)`` would round."""
    return value.detach() + (source - source.detach())
