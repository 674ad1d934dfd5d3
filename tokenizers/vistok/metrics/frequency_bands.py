"""Error of reconstructions by spatial frequency: bands of an octave each, from the Fourier transform."""

from typing import NamedTuple

import torch
from torch import Tensor

BANDS = ((0, 1 / 32), (1 / 32, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1))  # cycles per pixel, [from, to)


class BandPowers(NamedTuple):
    """Mean squares of each band, in squared levels: (b, bands) float64."""

    error: Tensor  # the rows sum to the mean squared error of an image
    image: Tensor  # without the mean level
    reconstruction: Tensor  # without the mean level


def band_powers(reconstruction: Tensor, images: Tensor) -> BandPowers:
    """Powers of the error, the image and the reconstruction in each of ``BANDS``.

    F is the discrete Fourier transform of one channel of H × W pixels, and ρ(u, v) = √((u / H)² + (v / W)²) the radial
    frequency of its coefficients, with |u| ≤ H/2 and |v| ≤ W/2. The power of a band is the sum of |F(u, v)|² / (H W)²
    over the coefficients with ρ in the band, averaged over channels. By Parseval's theorem all bands together have the
    mean square of the pixels. The highest frequency along rows and columns is 1/2; diagonally it is √½, which the last
    band includes.

    Args:
        reconstruction: (b, c, H, W) uint8.
        images: The same shape.
    """
    height, width = images.shape[-2:]
    of_images, of_reconstruction = (torch.fft.rfft2(side.double()) for side in (images, reconstruction))
    rows, columns = torch.fft.fftfreq(height, device=images.device), torch.fft.rfftfreq(width, device=images.device)
    radius = (rows.double().square().unsqueeze(1) + columns.double().square()).sqrt()
    twice = torch.full_like(columns, 2, dtype=torch.float64)  # a column stands for its mirror image too
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    weights = torch.stack([((radius >= low) & (radius < high)) * twice for low, high in BANDS]) / (height * width) ** 2

    def powers(transform: Tensor) -> Tensor:
        return torch.einsum("bchw,nhw->bn", transform.abs().square(), weights) / images.shape[1]

    error = powers(of_reconstruction - of_images)
    for transform in (of_images, of_reconstruction):
        transform[..., 0, 0] = 0
    return BandPowers(error, powers(of_images), powers(of_reconstruction))
