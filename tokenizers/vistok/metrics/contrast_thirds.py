"""Error of reconstructions by local contrast of the image: thirds of its blocks, from smooth to detailed."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # pixels along each side of a block
THIRDS = ("lowest", "middle", "highest")


class ContrastErrors(NamedTuple):
    """Means over the blocks of each third: (b, 3) float64, NaN for a third without blocks."""

    error: Tensor  # mean squared error, in squared levels
    contrast: Tensor  # standard deviation of the image within a block, in levels


def contrast_errors(reconstruction: Tensor, images: Tensor) -> ContrastErrors:
    """Mean squared error in the thirds of an image's blocks with the lowest, middle and highest contrast.

    The contrast of a block of 8 × 8 pixels is the standard deviation of the image's levels in it, σ = √(Σ_c σ_c² / C)
    over C channels. The n blocks of an image are sorted by σ, equal ones by their place, row by row; the block at place
    i from 0 belongs to third ⌊3 i / n⌋. Pixels to the right of and below the last complete block are left out. σ² is
    computed in integers, so that the thirds are the same on every device.

    Args:
        reconstruction: (b, c, H, W) uint8.
        images: The same shape.
    """
    pixels = BLOCK**2
    levels = blocks(images.double())  # exact: sums of squares are below 2⁵³
    variances = pixels * levels.square().sum(3) - levels.sum(3).square()  # (b, c, n) integers, times pixels²
    variances = variances.sum(1)
    errors = blocks((reconstruction.double() - images.double()).square()).mean((1, 3))
    order = variances.argsort(dim=1, stable=True)
    contrast = (variances / images.shape[1]).sqrt() / pixels
    n = order.shape[1]
    parts = [order[:, -(-third * n // 3) : -(-(third + 1) * n // 3)] for third in range(3)]
    means = [torch.stack([own.gather(1, part).mean(1) for part in parts], 1) for own in (errors, contrast)]
    return ContrastErrors(*means)


def blocks(images: Tensor) -> Tensor:
    """Complete blocks of images (b, c, H, W): (b, c, n, pixels), row by row; n is 0 for an image below a block."""
    b, c, height, width = images.shape
    if min(height, width) < BLOCK:
        return images.new_empty(b, c, 0, BLOCK**2)
    complete = images[..., : height // BLOCK * BLOCK, : width // BLOCK * BLOCK]
    return F.unfold(complete, BLOCK, stride=BLOCK).view(b, c, BLOCK**2, -1).transpose(2, 3)
