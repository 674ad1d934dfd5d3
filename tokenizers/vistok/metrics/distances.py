"""Per-image distances between an image and its reconstruction, by the names of the scores."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MS_SSIM_SMALLEST = 176  # pixels: after four halvings its window of 11 fits
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # for each scale, finest first
SSIM_WINDOW = 11


def psnr(reconstruction: Tensor, images: Tensor, highest: float = 100.0) -> Tensor:
    """Peak signal-to-noise ratio of each image: 10 log₁₀(255² / mean squared error) in dB, (b,) float32.

    Args:
        reconstruction: (b, c, H, W) uint8, or float on the same scale.
        images: The same shape.
        highest: Value of an image without any error; with infinity the mean over images would be infinite.
    """
    error = (reconstruction.float() - images.float()).square().mean((1, 2, 3))
    return (20 * math.log10(255) - 10 * error.log10()).clamp(max=highest)


def psnr_y(reconstruction: Tensor, images: Tensor) -> Tensor:
    """PSNR of the luma alone, with peak 255; higher than that of colours. Uint8 (b, 3, H, W) to (b,)."""
    return psnr(luma(reconstruction), luma(images))


def luma(images: Tensor) -> Tensor:
    """Y of BT.601's Y'CbCr, from 16 to 235: (b, 3, H, W) uint8 to (b, 1, H, W) float."""
    weights = images.new_tensor([65.481, 128.553, 24.966], dtype=torch.float32) / 255
    return torch.einsum("bchw,c->bhw", images.float(), weights).unsqueeze(1) + 16


def l1(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference on a scale of 0 to 1: uint8 (b, c, H, W) to (b,)."""
    return (reconstruction.float() - images.float()).abs().mean((1, 2, 3)) / 255


def ssim_gauss11(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Structural similarity with a Gaussian window of 11 pixels, standard deviation 1.5, range 255, as in torchmetrics.

    It is the mean over channels and positions, borders included (reflected). (b, c, H, W) to (b,), in float64 if images
    are uint8, so that a value does not depend on the rest of the batch, else in the images' precision.
    """
    luminance, contrast = _reflected(_precise(reconstruction), _precise(images))
    return (luminance * contrast).mean((1, 2, 3))


def _precise(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.double()


def ms_ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Multi-scale structural similarity as in torchmetrics: (b, c, H, W) uint8 to (b,) float64.

    There are five scales, a window of 11 and range 255. Contrasts are computed where the window fits; the similarity of
    the coarsest scale includes reflected borders. Negative values count as 0.
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
    """Two terms of structural similarity where the window fits: luminance, and contrast times structure.

    Window means are taken along one dimension and then along the other, at a fifth of the cost of both at once.

    Args:
        x: (b, c, H, W), float.
        y: The same shape.
        window: (n,) weights of one dimension, which sum to 1.
        highest: Range L in the constants (0.01 L)² and (0.03 L)².
        factor: Factor of variances and covariances.
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
        highest: Range L in the constants (0.01 L)² and (0.03 L)², in levels.
        unbiased: True for sample variances, which divide by n² - 1 for n² pixels.
    """
    x, y = reconstruction.double(), images.double()  # variances as differences of squares up to 65,025
    pixels = len(window) ** 2
    luminance, contrast = _similarity(x, y, window, highest, pixels / (pixels - 1) if unbiased else 1.0)
    return (luminance * contrast).mean((1, 2, 3)).float()


def ssim_skimage7(reconstruction: Tensor, images: Tensor) -> Tensor:
    """scikit-image's default: uniform window of 7 pixels, sample covariances, range 255. Uint8 (b, c, H, W) to (b,)."""
    return ssim_windowed(reconstruction, images, flat(7), 255.0, unbiased=True)


def ssim_skimage7_range2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """``ssim_skimage7`` with range 2 for images in [0, 1], twice the true range, as in LlamaGen; values are higher."""
    return ssim_windowed(reconstruction, images, flat(7), 510.0, unbiased=True)


def ssim_gauss11_inner(reconstruction: Tensor, images: Tensor) -> Tensor:
    """SSIM of piq, range 255: Gaussian window, without borders; large images are first reduced.

    piq averages blocks of ``min(H, W) / 256`` pixels, rounded: none for images below 384. Uint8 (b, 3, H, W) to (b,).
    """
    return _ssim_of_piq(reconstruction, images, 255.0)


def ssim_gauss11_range2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """``ssim_gauss11_inner`` with range 2 for images in [0, 1], twice the true range, as in FVQ; values are higher."""
    return _ssim_of_piq(reconstruction, images, 510.0)


def _ssim_of_piq(reconstruction: Tensor, images: Tensor, highest: float) -> Tensor:
    factor = max(1, round(min(images.shape[-2:]) / 256))
    x, y = (F.avg_pool2d(side.float(), factor) for side in (reconstruction, images))
    return ssim_windowed(x, y, gaussian(11, 1.5), highest, unbiased=False)


def ssim_y(reconstruction: Tensor, images: Tensor) -> Tensor:
    """SSIM of pyiqa: rounded luma, Gaussian window of 11, without borders, range 255. Uint8 (b, 3, H, W) to (b,)."""
    x, y = (luma(side).round() for side in (reconstruction, images))
    return ssim_windowed(x, y, gaussian(11, 1.5), 255.0, unbiased=False)


def flat(size: int) -> Tensor:
    """Equal weights (size,)."""
    return torch.full((size,), 1 / size, dtype=torch.float64)


def gaussian(size: int, deviation: float) -> Tensor:
    """Weights (size,) of a Gaussian, which sum to 1."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = (-at.square() / (2 * deviation**2)).exp()
    return weights / weights.sum()


# None: computed by a network whose weights must be available
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
