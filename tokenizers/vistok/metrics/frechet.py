"""Fréchet distance between images and their reconstructions (FID: arXiv:1706.08500, Eq. 6), in constant memory."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from vistok.metrics.features import Inception


class FrechetDistance(Metric):
    """The Fréchet distance between Gaussians fitted to the features of images and of their reconstructions.

    Keeps sums only, 2 (d² + d) float64 whatever the number of images, and adds them over ranks. ``compute`` returns a
    float64 scalar and raises ``ValueError`` for fewer than 2 images. Below about d images the covariances are singular:
    the value is exact, but far above what more images would give.

    Args:
        network: uint8 images (b, 3, H, W) to features (b, d), with ``name`` and ``dim``; see ``features.py``.
    """

    full_state_update = False
    higher_is_better = False
    count: Tensor  # () int64
    totals: Tensor  # (2, d) float64, Σx of the images and of the reconstructions
    products: Tensor  # (2, d, d) float64, Σxxᵀ

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("totals", torch.zeros(2, network.dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(2, network.dim, network.dim, dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def name(self) -> str:
        """``rfid`` with the network and weights that define FID, else ``frechet_`` and the network's name."""
        official = isinstance(self.network, Inception) and self.network.official
        return "rfid" if official else f"frechet_{self.network.name}"

    def update(self, images: Tensor, reconstruction: Tensor) -> None:
        """Add a batch of images and their reconstructions, both (b, 3, H, W) uint8."""
        for side, pixels in enumerate((images, reconstruction)):
            with torch.autocast(pixels.device.type, enabled=False):
                features = self.network(pixels).double()
            # Not shifted by a first batch's mean, which would differ between ranks. Products of float32 values are
            # exact in float64, so the covariance is off by 1e-15 of its largest entry with MobileNetV2's features
            # (means of one deviation), by 1e-9 where means are 10⁴ deviations: measured against long double.
            self.totals[side] += features.sum(0)
            self.products[side].addmm_(features.T, features)
        self.count += len(images)

    def compute(self) -> Tensor:
        n = self.count.item()
        if n < 2:
            raise ValueError(f"a Fréchet distance needs at least 2 images, not {n}")
        means = self.totals / n
        covariances = (self.products - n * means.unsqueeze(2) * means.unsqueeze(1)) / (n - 1)
        return frechet_distance(means[0], covariances[0], means[1], covariances[1])


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½) of Gaussians with means (d,) and covariances (d, d), in float64.

    With C = RRᵀ the trace of the root is the sum of the singular values of R₁ᵀR₂. These come without squaring, so
    singular covariances lose no digits, where eigenvalues of C₁C₂ keep only half of them (``scipy.linalg.sqrtm``, of
    the published implementations, gives complex numbers there and takes ten times as long).
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    overlap = torch.linalg.svdvals(_root(cov1).T @ _root(cov2)).sum()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap


def _root(covariance: Tensor) -> Tensor:
    """R (d, rank) with RRᵀ the covariance (d, d), less the directions in which it is 0 up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()
