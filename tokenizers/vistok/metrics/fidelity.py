"""PSNR and structural similarity of the framework's images, for users: with all checks, on 8-bit levels.

The functions of ``distances`` compute the same from levels alone and check nothing.
"""

from torch import Tensor

from vistok.metrics import distances
from vistok.metrics.image_checks import checked_levels


def psnr(reconstruction: Tensor, images: Tensor, highest: float = 100.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: 10 log₁₀(255² / mean squared error) in dB, (b,) float32.

    Args:
        reconstruction: (b, c, H, W), uint8, or float around [-1, 1], which is clamped and rounded to 8 bits.
        images: The same shape, uint8, or float in [-1, 1], which is rounded to 8 bits.
        highest: Value of an image without any error; with infinity the mean over images would be infinite.

    Raises:
        ValueError: A shape, dtype or range is another.
    """
    return distances.psnr(*checked_levels(reconstruction, images), highest)


def ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each image, (b,): ``ssim_gauss11`` of docs/evaluation.md.

    Args:
        reconstruction: As for ``psnr``, at least 11 pixels high and wide.
        images: As for ``psnr``.

    Raises:
        ValueError: A shape, dtype or range is another.
    """
    return distances.ssim_gauss11(*checked_levels(reconstruction, images, distances.SSIM_WINDOW))


def ms_ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image, (b,).

    Args:
        reconstruction: As for ``psnr``, at least 176 pixels high and wide.
        images: As for ``psnr``.

    Raises:
        ValueError: A shape, dtype or range is another.
    """
    levels = checked_levels(reconstruction, images, distances.MS_SSIM_SMALLEST, "MS-SSIM's smallest size")
    return distances.ms_ssim(*levels)
