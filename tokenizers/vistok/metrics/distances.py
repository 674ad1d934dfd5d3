"""Per-image distances between an image and its reconstruction, by the names of the scores."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.metrics.similarity import SimilarityMeans, flat_means, inner_means, reflected_means

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


def gauss11_means(reconstruction: Tensor, images: Tensor) -> SimilarityMeans:
    """The pass that ``ssim_gauss11`` and the finest scale of ``ms_ssim`` share: Gaussian window of 11, range 255."""
    return reflected_means(reconstruction, images, gaussian(SSIM_WINDOW, 1.5), 255.0)


def ssim_gauss11(reconstruction: Tensor, images: Tensor, means: SimilarityMeans | None = None) -> Tensor:
    """Structural similarity with a Gaussian window of 11 pixels, standard deviation 1.5, range 255, as in torchmetrics.

    It is the mean over channels and positions, borders included (reflected). (b, c, H, W) uint8, or float on the same
    scale, to (b,) float64, so that a value does not depend on the rest of the batch. ``means`` are the
    ``gauss11_means`` of the same pair if they are known.
    """
    return (means or gauss11_means(reconstruction, images)).similarity


def ms_ssim(reconstruction: Tensor, images: Tensor, means: SimilarityMeans | None = None) -> Tensor:
    """Multi-scale structural similarity as in torchmetrics: (b, c, H, W) uint8 to (b,) float64.

    There are five scales, a window of 11 and range 255. Contrasts are computed where the window fits; the similarity of
    the coarsest scale includes reflected borders. Negative values count as 0. ``means`` are the ``gauss11_means`` of
    the same pair if they are known.
    """
    means = means or gauss11_means(reconstruction, images)
    x, y = reconstruction.double(), images.double()
    product = torch.ones_like(means.contrast)
    for exponent in MS_SSIM_EXPONENTS[:-1]:
        product = product * means.contrast.relu() ** exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        means = gauss11_means(x, y)
    return product * means.similarity.relu() ** MS_SSIM_EXPONENTS[-1]


def ssim_skimage7(reconstruction: Tensor, images: Tensor) -> Tensor:
    """scikit-image's default: uniform window of 7 pixels, sample covariances, range 255. Uint8 (b, c, H, W) to (b,)."""
    return flat_means(reconstruction, images, 7, 255.0).float()


def ssim_skimage7_range2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """``ssim_skimage7`` with range 2 for images in [0, 1], twice the true range, as in LlamaGen; values are higher."""
    return flat_means(reconstruction, images, 7, 510.0).float()


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
    return inner_means(x, y, gaussian(SSIM_WINDOW, 1.5), highest).float()


def ssim_y(reconstruction: Tensor, images: Tensor) -> Tensor:
    """SSIM of pyiqa: rounded luma, Gaussian window of 11, without borders, range 255. Uint8 (b, 3, H, W) to (b,)."""
    x, y = (luma(side).round() for side in (reconstruction, images))
    return inner_means(x, y, gaussian(SSIM_WINDOW, 1.5), 255.0).float()


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
SHARE_GAUSS11_MEANS = ("ssim_gauss11", "ms_ssim")  # their third argument
