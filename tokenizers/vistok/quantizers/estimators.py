"""How gradients pass the choice of a codeword, which has none of its own.

An estimator takes the latent that was quantized and the codewords chosen for it, both (b, d, h, w), and returns what
the decoder reads in training. In evaluation that is always the codeword.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Estimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StraightThrough:
    """The codeword, with the decoder's gradient handed on to the latent (VQ-VAE, arXiv:1711.00937, section 3.2)."""

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        return with_gradient_of(z_q, z)


@dataclass(frozen=True)
class RotationTrick:
    """The codeword, with the gradient turned by the angle from codeword to latent (arXiv:2410.06424, section 4.2).

    The codeword is written as ``scale · R z``, with ``R`` the rotation from z's direction to the codeword's, and both
    ``R`` and ``scale`` held constant.

    Attributes:
        least_norm: Smallest norm that is divided by, so that vectors near zero have finite gradients.
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
    """The latent moved by its distance to the codeword, in about the codeword's direction (DiVeQ, ICLR 2026; its code).

    The distance has gradients to latent and codeword, so the decoder teaches both and no other loss is needed: weigh
    ``commitment`` and ``codebook`` with 0. The direction is constant.

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
    """The codeword, with the decoder's gradient: it teaches the codebook and, unlike straight-through, no encoder.

    For codebooks around frozen networks (``trainable=codebook``), where a gradient to the latent would be lost.
    """

    def __call__(self, z: Tensor, z_q: Tensor) -> Tensor:
        return z_q


def with_gradient_of(value: Tensor, source: Tensor) -> Tensor:
    """``value`` to the last bit, with the gradient of ``source``: ``source + (value - source)`` would round."""
    return value.detach() + (source - source.detach())
