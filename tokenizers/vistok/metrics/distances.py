"""Distances between an image and its reconstruction, one number for each image, by the names that scores have."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MS_SSIM_SMALLEST = 176  # pixels: four halvings leave the 11 of its window
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
SSIM_WINDOW = 11


def psnr(reconstruction: Tensor, images: Tensor, highest: float = 100.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: 10 log₁₀(255² / mean squared error) in dB, (b,) float32.

    Args:
        reconstruction: (b, c, H, W) uint8, or float on the same scale.
        images: The same shape.
        highest: What an image without any error counts, since infinity would be the mean over all images.
    """
    error = (reconstruction.float() - images.float()).square().mean((1, 2, 3))
    return (20 * math.log10(255) - 10 * error.log10()).clamp(max=highest)


def psnr_y(reconstruction: Tensor, images: Tensor) -> Tensor:
    """PSNR of the luma alone, peak 255: above that of the colours. Uint8 (b, 3, H, W) to (b,)."""
    return psnr(luma(reconstruction), luma(images))


def luma(images: Tensor) -> Tensor:
    """Y of BT.601's Y'CbCr, which reaches from 16 to 235: (b, 3, H, W) uint8 to (b, 1, H, W) float."""
    weights = images.new_tensor([65.481, 128.553, 24.966], dtype=torch.float32) / 255
    return torch.einsum("bchw,c->bhw", images.float(), weights).unsqueeze(1) + 16


def l1(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference on a scale of 0 to 1: uint8 (b, c, H, W) to (b,)."""
    return (reconstruction.float() - images.float()).abs().mean((1, 2, 3)) / 255


def ssim_gauss11(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Structural similarity with a Gaussian window of 11 pixels and 1.5 deviation, range 255, as torchmetrics has it.

    The mean over channels and positions, borders included (reflected). (b, c, H, W) to (b,), in float64 if images are
    uint8, so that a value does not depend on the rest of the batch, else in their own precision.
    """
    luminance, contrast = _reflected(_precise(reconstruction), _precise(images))
    return (luminance * contrast).mean((1, 2, 3))


def _precise(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.double()


def ms_ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Multi-scale structural similarity as torchmetrics has it: (b, c, H, W) uint8 to (b,) float64.

    Five scales, window of 11, range 255. Contrasts are of where the window fits, the similarity of the coarsest scale
    also of reflected borders; negative ones count as 0.
    """
    x, y = reconstruction.double(), images.double()
    product, window = x.new_ones(len(x)), gaussian(SSIM_WINDOW, 1.5)
    for exponent in MS_SSIM_EXPONENTS[:-1]:
        contrast = _similarity(x, y, window, 255.0)[1]
        product = product * contrast.mean((1, 2, 3)).relu() ** exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    luminance, contrast = _reflected(x, y)
    return product * (luminance * contrast).mean((1, 2, 3)).relu() ** MS_SSIM_EXPONENTS[-1]


def _reflected(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``_similarity`` with the window of ``ssim_gauss11`` at every position of (b, c, H, W)."""
    x, y = (F.pad(side, [SSIM_WINDOW // 2] * 4, mode="reflect") for side in (x, y))
    return _similarity(x, y, gaussian(SSIM_WINDOW, 1.5), 255.0)


def _similarity(x: Tensor, y: Tensor, window: Tensor, highest: float, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two terms of structural similarity, of luminance and of contrast and structure, where the window fits.

    Means over the window are taken along one dimension and then along the other, which costs a fifth of both at once.

    Args:
        x: (b, c, H, W), float.
        y: The same shape.
        window: (n,) weights of one dimension, which sum to 1.
        highest: The range L in the constants (0.01 L)² and (0.03 L)².
        factor: What (co)variances are multiplied by.
    """
    channels, column = x.shape[1], window.to(x).reshape(1, 1, -1, 1)
    column = column.expand(channels, 1, -1, 1)
    moments = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), column, groups=channels)
    mean_x, mean_y, square_x, square_y, product = F.conv2d(moments, column.mT, groups=channels).chunk(5)
    spread = factor * (square_x + square_y - mean_x.square() - mean_y.square()).clamp(min=0)
    covariance = factor * (product - mean_x * mean_y)
    c1, c2 = (0.01 * highest) ** 2, (0.03 * highest) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance, (2 * covariance + c2) / (spread + c2)


def ssim_windowed(reconstruction: Tensor, images: Tensor, window: Tensor, highest: float, unbiased: bool) -> Tensor:
    """Structural similarity of each image where the window fits, the mean over channels and positions: (b,).

    Args:
        reconstruction: (b, c, H, W) uint8.
        images: The same shape.
        window: (n,) weights of one dimension, which sum to 1.
        highest: The range L in the constants (0.01 L)² and (0.03 L)², in levels.
        unbiased: Whether variances are of samples, so that n² pixels count n² - 1.
    """
    x, y = reconstruction.double(), images.double()  # variances as differences of squares up to 65,025
    pixels = len(window) ** 2
    luminance, contrast = _similarity(x, y, window, highest, pixels / (pixels - 1) if unbiased else 1.0)
    return (luminance * contrast).mean((1, 2, 3)).float()


def ssim_skimage7(reconstruction: Tensor, images: Tensor) -> Tensor:
    """scikit-image's default: a flat window of 7 pixels, sample covariances, range 255. Uint8 (b, c, H, W) to (b,)."""
    return ssim_windowed(reconstruction, images, flat(7), 255.0, unbiased=True)


def ssim_skimage7_range2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """``ssim_skimage7`` with a range of 2 for images in [0, 1], twice what they have, as LlamaGen: much higher."""
    return ssim_windowed(reconstruction, images, flat(7), 510.0, unbiased=True)


def ssim_gauss11_inner(reconstruction: Tensor, images: Tensor) -> Tensor:
    """piq's, range 255: Gaussian window, borders left out, on images that were shrunk first if they are large.

    piq averages blocks of ``min(H, W) / 256`` pixels, rounded: none for images below 384. Uint8 (b, 3, H, W) to (b,).
    """
    return _ssim_of_piq(reconstruction, images, 255.0)


def ssim_gauss11_range2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """``ssim_gauss11_inner`` with a range of 2 for images in [0, 1], twice what they have, as FVQ: much higher."""
    return _ssim_of_piq(reconstruction, images, 510.0)


def _ssim_of_piq(reconstruction: Tensor, images: Tensor, highest: float) -> Tensor:
    factor = max(1, round(min(images.shape[-2:]) / 256))
    x, y = (F.avg_pool2d(side.float(), factor) for side in (reconstruction, images))
    return ssim_windowed(x, y, gaussian(11, 1.5), highest, unbiased=False)


def ssim_y(reconstruction: Tensor, images: Tensor) -> Tensor:
    """On the rounded luma, Gaussian window of 11, borders left out, range 255, as pyiqa: uint8 (b, 3, H, W) to (b,)."""
    x, y = (luma(side).round() for side in (reconstruction, images))
    return ssim_windowed(x, y, gaussian(11, 1.5), 255.0, unbiased=False)


def flat(size: int) -> Tensor:
    """(size,) equal weights."""
    return torch.full((size,), 1 / size, dtype=torch.float64)


def gaussian(size: int, deviation: float) -> Tensor:
    """(size,) weights of a Gaussian, which sum to 1."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = (-at.square() / (2 * deviation**2)).exp()
    return weights / weights.sum()


# None: the network's, whose weights have to be had
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "psnr": psnr,
    "psnr_y": psnr_y,
    "l1": l1,
    "ssim_gauss11": ssim_gauss11,
    "ssim_gauss11_inner": ssim_gauss11_inner,
    "ssim_gauss11_range2": ssim_gauss11_range2,
    "ssim_skimage7": ssim_skimage7,
    "ssim_skimage7_range2": ssim_skimage7_range2,
    "ssim_y": ssim_y,
    "ms_ssim": ms_ssim,
    "lpips_alex": None,
    "lpips_vgg": None,
}
