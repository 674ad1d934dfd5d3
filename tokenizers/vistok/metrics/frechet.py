"""Fréchet distance between two sets of images (FID: arXiv:1706.08500, Eq. 6), in constant memory."""

import torch
from torch import Tensor


class FeatureStatistics:
    """Sums over the features of a set of images: d² + d float64 values, whatever the number of images.

    Attributes:
        count: () int64, images seen.
        total: (d,) float64, Σx.
        product: (d, d) float64, Σxxᵀ.

    Args:
        dim: Features d of an image.
        device: Where the features are.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.total = torch.zeros(dim, dtype=torch.float64, device=device)
        self.product = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Add the features (b, d) of a batch."""
        features = features.double()
        # Not shifted by a first batch's mean, which would differ between ranks. Products of float32 values are
        # exact in float64, so the covariance is off by 1e-15 of its largest entry with MobileNetV2's features
        # (means of one deviation), by 1e-9 where means are 10⁴ deviations: measured against long double.
        self.total += features.sum(0)
        self.product.addmm_(features.T, features)
        self.count += len(features)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and sample covariance (d, d), float64.

        Raises:
            ValueError: Fewer than 2 images.
        """
        n = self.count.item()
        if n < 2:
            raise ValueError(f"a Fréchet distance needs at least 2 images, not {n}")
        mean = self.total / n
        return mean, (self.product - n * mean.outer(mean)) / (n - 1)

    def distance(self, other: "FeatureStatistics") -> Tensor:
        """Fréchet distance to another set: a float64 scalar.

        Below about d images the covariances are singular: the value is exact, but far above what more images would
        give.
        """
        return frechet_distance(*self.gaussian(), *other.gaussian())

    def tensors(self) -> dict[str, Tensor]:
        """The sums themselves, by name: to add them over ranks, to save them, to fill them."""
        return {"count": self.count, "total": self.total, "product": self.product}


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
