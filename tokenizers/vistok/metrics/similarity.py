"""Structural similarity (SSIM) by sums and differences of pixels: luminance, and contrast times structure.

With p = x + y and d = x - y, var p + var d = 2 (var x + var y) and var p - var d = 4 cov(x, y), and likewise for
squared means. So the two terms are

    luminance = (m_p² - m_d² + 2 c₁) / (m_p² + m_d² + 2 c₁),    contrast = (v_p - v_d + 2 c₂) / (v_p + v_d + 2 c₂)

for means m and variances v over a window. This takes four window means instead of five, and equal images give exactly
1.

Everything is computed in float64, or exactly in integers: 8-bit pixels have squares up to 65,025, and float32 would
keep too few digits of a variance. A few planes at a time are computed, so that they stay in the processor's cache.
Their rows come first (H, n, W), so that a window mean along either dimension is a product of two plain matrices.
``terms_by_convolution`` is the plain form.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 24  # positions of a banded matrix product: narrower ones start more products, wider ones multiply more zeros
CHUNK = 2**16  # pixels of the planes that a CPU computes at a time: half a MiB in float64, one plane of 256 × 256
CHUNK_OF_GPU = 2**22


class SimilarityMeans(NamedTuple):
    """Means of an image over channels and positions: (b,) float64 each."""

    similarity: Tensor  # of luminance times contrast, at every position: borders are reflected
    contrast: Tensor  # of contrast times structure, where the window fits


def constants(highest: float) -> tuple[float, float]:
    """(0.01 L)² and (0.03 L)² of a range L."""
    return (0.01 * highest) ** 2, (0.03 * highest) ** 2


def reflected_means(reconstruction: Tensor, images: Tensor, window: Tensor, highest: float) -> SimilarityMeans:
    """Similarity and contrast in one pass over (b, c, H, W), in float64.

    Args:
        reconstruction: (b, c, H, W) uint8, or float on the same scale; H and W are at least n.
        images: The same shape.
        window: (n,) weights of one dimension, which sum to 1; n is odd.
        highest: Range L of the constants.
    """
    border = len(window) // 2
    rows, columns = (reflection(size, border, images.device) for size in images.shape[-2:])
    similarity, contrast = [], []
    for x, y in chunks(reconstruction, images):
        x, y = (side.double()[rows][..., columns] for side in (x, y))
        luminance, structure = weighted_terms(x, y, window, highest)
        contrast.append(structure[border:-border, :, border:-border].mean((0, 2)))
        similarity.append(luminance.mul_(structure).mean((0, 2)))
    b = len(images)
    return SimilarityMeans(*(torch.cat(own).view(b, -1).mean(1) for own in (similarity, contrast)))


def inner_means(reconstruction: Tensor, images: Tensor, window: Tensor, highest: float) -> Tensor:
    """Mean similarity where the window fits: as ``reflected_means``, to (b,) float64."""
    means = []
    for x, y in chunks(reconstruction, images):
        luminance, structure = weighted_terms(x.double(), y.double(), window, highest)
        means.append(luminance.mul_(structure).mean((0, 2)))
    return torch.cat(means).view(len(images), -1).mean(1)


def flat_means(reconstruction: Tensor, images: Tensor, size: int, highest: float) -> Tensor:
    """Mean similarity where a window of equal weights fits, with sample variances, which divide by size² - 1.

    Sums over the window are integers: they and the variances are exact in int32 for windows of up to 9 pixels.

    Args:
        reconstruction: (b, c, H, W) uint8; H and W are at least ``size``.
        images: The same shape.
        size: Side of the window in pixels.
        highest: Range L of the constants.

    Returns:
        (b,) float64.
    """
    pixels, means = size**2, []
    unbiased = pixels / (pixels - 1)
    c1, c2 = (2 * pixels**2 * c for c in constants(highest))
    for x, y in chunks(reconstruction, images):
        x, y = x.int(), y.int()
        squares, variances = [], []
        for side in (x + y, x - y):
            square = box_sums(side, size).square_()
            variances.append(box_sums(side.square_(), size).mul_(pixels).sub_(square))
            squares.append(square)
        luminance = ratio(squares[0].double(), squares[1].double(), c1)
        contrast = ratio(unbiased * variances[0].double(), unbiased * variances[1].double(), c2)
        means.append(luminance.mul_(contrast).mean((0, 2)))
    return torch.cat(means).view(len(images), -1).mean(1)


def chunks(reconstruction: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of planes (H, n, W), n at a time, of two tensors (b, c, H, W)."""
    height, width = images.shape[-2:]
    n = max(1, (CHUNK if images.device.type == "cpu" else CHUNK_OF_GPU) // (height * width))
    sides = (side.reshape(-1, height, width).split(n) for side in (reconstruction, images))
    for x, y in zip(*sides, strict=True):
        yield x.transpose(0, 1).contiguous(), y.transpose(0, 1).contiguous()


def reflection(size: int, border: int, device: torch.device) -> Tensor:
    """Indices (size + 2 border,) that reflect a dimension at its ends, which are not repeated."""
    at = torch.arange(-border, size + border, device=device).abs()
    return torch.where(at < size, at, 2 * (size - 1) - at)


def weighted_terms(x: Tensor, y: Tensor, window: Tensor, highest: float) -> tuple[Tensor, Tensor]:
    """Luminance and contrast (H', n, W') where the window fits, of planes (H, n, W) float64."""
    window = window.to(x)
    squares, variances = [], []
    for side in (x + y, x - y):
        square = window_means(side, window).square_()
        variances.append(window_means(side.square_(), window).sub_(square))
        squares.append(square)
    c1, c2 = constants(highest)
    return ratio(squares[0], squares[1], 2 * c1), ratio(variances[0], variances[1], 2 * c2)


def ratio(of_sums: Tensor, of_differences: Tensor, constant: float) -> Tensor:
    """(p - d + constant) / (p + d + constant); overwrites both."""
    denominator = (of_sums + of_differences).add_(constant)
    return of_sums.sub_(of_differences).add_(constant).div_(denominator)


def window_means(planes: Tensor, window: Tensor) -> Tensor:
    """Weighted means over all n × n windows: (H, m, W) to (H - n + 1, m, W - n + 1), by banded matrix products."""
    (height, _, width), rest = planes.shape, len(window) - 1
    band = banded(window)
    flat = planes.flatten(1)
    parts = []
    for start in range(0, height - rest, TILE):
        count = min(TILE, height - rest - start)
        parts.append(band[: count + rest, :count].mT @ flat[start : start + count + rest])
    planes = torch.cat(parts).view(height - rest, -1, width)
    parts = []
    for start in range(0, width - rest, TILE):
        count = min(TILE, width - rest - start)
        parts.append(planes[..., start : start + count + rest] @ band[: count + rest, :count])
    return torch.cat(parts, -1)


def banded(window: Tensor) -> Tensor:
    """Matrix (TILE + n - 1, TILE) whose column i has the window's n weights from row i on."""
    band = window.new_zeros(TILE, TILE + len(window))
    band[:, : len(window)] = window
    return band.flatten()[: TILE * (TILE + len(window) - 1)].view(TILE, -1).T


def box_sums(planes: Tensor, size: int) -> Tensor:
    """Sums over all size × size windows: (H, m, W) to (H - size + 1, m, W - size + 1); 7 is added up as 1 + 2 + 4."""
    for dim in (0, 2):
        length = planes.shape[dim] - size + 1
        sums, power, covered, pieces = planes, 1, 0, []  # sums over ``power`` neighbours
        while covered < size:
            if size & power:
                pieces.append(sums.narrow(dim, covered, length))
                covered += power
            if covered < size:
                kept = sums.shape[dim] - power
                sums = sums.narrow(dim, 0, kept) + sums.narrow(dim, power, kept)
                power *= 2
        planes = functools.reduce(torch.add, pieces)
    return planes


def terms_by_convolution(
    x: Tensor, y: Tensor, window: Tensor, highest: float, factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Luminance and contrast of (b, c, H, W) where the window fits, by depthwise convolutions: the plain form.

    Args:
        x: (b, c, H, W), float.
        y: The same shape.
        window: (n,) weights of one dimension, which sum to 1.
        highest: Range L of the constants.
        factor: Factor of variances and covariances.
    """
    channels, column = x.shape[1], window.to(x).reshape(1, 1, -1, 1)
    column = column.expand(channels, 1, -1, 1)
    moments = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), column, groups=channels)
    mean_x, mean_y, square_x, square_y, product = F.conv2d(moments, column.mT, groups=channels).chunk(5)
    spread = factor * (square_x + square_y - mean_x.square() - mean_y.square()).clamp(min=0)
    covariance = factor * (product - mean_x * mean_y)
    c1, c2 = constants(highest)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance, (2 * covariance + c2) / (spread + c2)
