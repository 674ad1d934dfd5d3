"""Fréchet distance between two sets of images (FID: arXiv:1706.08500, Eq. 6), in constant memory."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects, sum_over_ranks
from vistok.metrics.states import Accumulator, Saved

BLOCK = 512  # images whose features are converted to float64 at a time
NEGLIGIBLE = 1e-8  # negligible error of a distance, relative to it or to a thousandth of the variances


class FeatureStatistics(Accumulator):
    """Statistics of image features for a Fréchet distance, in memory that does not grow with the number of images.

    For up to d images the features themselves are kept: their covariance is singular, and a distance computed from it
    would lose digits. For more images the mean and the scatter are kept, d² + d float64 values. Both forms can be
    summed over ranks.

    Attributes:
        count: Number of images.
        rows: (d, d) in the features' precision, whose first ``count`` rows are features; None for more than d images.
        mean: (d,) float64.
        scatter: (d, d) float64, Σ(x - mean)(x - mean)ᵀ; None for up to d images.

    Args:
        dim: Number of features d of an image.
        device: Device of the features.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.dim, self.device = dim, device
        self.count = 0
        self.rows: Tensor | None = None
        self.mean: Any = None  # a tensor once scatter is one
        self.scatter: Any = None

    def update(self, features: Tensor) -> None:
        """Adds the features (b, d) of a batch.

        Raises:
            ValueError: They have another shape, or are not floats.
        """
        if features.ndim != 2 or features.shape[1] != self.dim or not features.is_floating_point():
            got = f"{str(features.dtype).removeprefix('torch.')} of the shape {tuple(features.shape)}"
            raise ValueError(f"features must be float of the shape (b, {self.dim}), not {got}")
        b, count = len(features), self.count
        if self.scatter is None and count + b <= self.dim:
            if self.rows is None:
                with torch.inference_mode(False):  # rows are also written outside inference mode
                    self.rows = features.new_empty(self.dim, self.dim, device=self.device)
            self.rows[count : count + b] = features
            self.count += b
            return
        self._fold()
        for block in features.split(BLOCK):
            self._add(block)

    def _fold(self) -> None:
        """Converts stored features to moments."""
        if self.scatter is not None:
            return
        rows, count, self.count = self.rows, self.count, 0
        with torch.inference_mode(False):
            self.mean = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
            self.scatter = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device)
        self.rows = None
        if rows is not None:
            for block in rows[:count].split(BLOCK):
                self._add(block)

    def _add(self, features: Tensor) -> None:
        """Adds a batch by Chan, Golub and LeVeque's update (1979).

        The batch is centred on its own mean, and one row is added for the distance between the means. Sums of squares
        that are not centred would lose digits where means are large.
        """
        b = len(features)
        x = features.double()
        own = x.mean(0)
        step, share = own - self.mean, b / (self.count + b)
        x = torch.cat([x - own, (self.count * share) ** 0.5 * step.unsqueeze(0)])
        self.scatter.addmm_(x.T, x)
        self.mean += share * step
        self.count += b

    def gather(self) -> "FeatureStatistics":
        """Merges the statistics of all ranks, on every rank."""
        counts = gather_objects(self.count)
        total = sum(counts)
        if len(counts) == 1 or total == 0:
            return self
        if total <= self.dim:
            parts = gather_objects(None if self.rows is None else self.rows[: self.count].cpu())
            self.rows, self.count = None, 0
            for part in parts:
                if part is not None:
                    self.update(part.to(self.device))
            return self
        self._fold()
        mean = sum_over_ranks(self.mean * (self.count / total))
        step = self.mean - mean
        self.scatter.addr_(step, step, alpha=self.count)
        sum_over_ranks(self.scatter)
        self.mean, self.count = mean, total
        return self

    def features(self) -> Tensor | None:
        """Features (count, d) float64 for up to d images, else None."""
        return None if self.rows is None else self.rows[: self.count].double()

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and sample covariance (d, d), float64.

        Raises:
            ValueError: There are fewer than 2 images.
        """
        if self.count < 2:
            raise ValueError(f"a Fréchet distance needs at least 2 images, not {self.count}")
        mean, scatter = self._moments()
        return mean, scatter / (self.count - 1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and scatter (d, d), float64, of at least one image."""
        if self.scatter is not None:
            return self.mean, self.scatter
        features = cast(Tensor, self.features())
        mean = features.mean(0)
        centred = features - mean
        return mean, centred.T @ centred

    def without(self, part: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of the images that are not in ``part``, a subset: Chan's update, solved for the other summand.

        Rounding errors are relative to the scatter of all images, so that ``part`` should be the smaller share.

        Args:
            part: Statistics of fewer images, each of which is in these statistics too; these are of more than d images.
        """
        assert self.scatter is not None and 0 < part.count < self.count
        mean, scatter = part._moments()
        rest = FeatureStatistics(self.dim, self.device)
        rest.count = self.count - part.count
        step = mean - self.mean
        rest.mean = self.mean - step * (part.count / rest.count)
        rest.scatter = torch.sub(self.scatter, scatter)
        rest.scatter.addr_(step, step, alpha=-part.count * self.count / rest.count)
        return rest

    def distance(self, other: "FeatureStatistics") -> Tensor:
        """Fréchet distance to another set: a float64 scalar.

        For up to d images the value is exact, but much larger than for more images.

        Raises:
            ValueError: There are fewer than 2 images.
        """
        for side in (self, other):
            if side.count < 2:
                raise ValueError(f"a Fréchet distance needs at least 2 images, not {side.count}")
        if self.rows is not None and other.rows is not None:
            return frechet_distance_of_features(cast(Tensor, self.features()), cast(Tensor, other.features()))
        return frechet_distance(*self.gaussian(), *other.gaussian())

    def save(self) -> Saved:
        if self.scatter is not None:
            return Saved({"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}, {})
        rows = torch.empty(0, self.dim) if self.rows is None else self.rows[: self.count]
        return Saved({"count": torch.tensor(self.count), "rows": rows}, {})

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.count, self.rows, self.mean, self.scatter = 0, None, None, None
        if "rows" in tensors:
            self.update(tensors["rows"].to(self.device))
        else:
            self.count = int(tensors["count"])
            self.mean, self.scatter = (tensors[name].to(self.device).clone() for name in ("mean", "scatter"))

    def to(self, device: torch.device | str) -> "FeatureStatistics":
        self.device = device
        self.restore(self.save().tensors, {})
        return self

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "FeatureStatistics":
        """Statistics from the ``tensors`` that ``save`` returned, on ``device``."""
        statistics = cls(tensors["rows" if "rows" in tensors else "mean"].shape[-1], device)
        statistics.restore(tensors, {})
        return statistics


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½) of Gaussians with means (d,) and covariances (d, d), in float64.

    With C₁ = LLᵀ (Cholesky) the eigenvalues of C₁C₂ are those of the symmetric LᵀC₂L. They are the squares of the
    summed values, so that small ones lose half of their digits. Where that would affect the result, as for singular
    covariances, the singular values of R₁ᵀR₂ with C = RRᵀ are summed instead, which need no squaring.
    (``scipy.linalg.sqrtm``, used by the published implementations, takes several times as long and gives complex
    numbers for singular covariances.)
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    variances = cov1.trace() + cov2.trace()
    apart = (mean1 - mean2).square().sum() + variances
    lower, failed = torch.linalg.cholesky_ex(cov1)
    if not failed:
        squares = torch.linalg.eigvalsh(lower.T @ cov2 @ lower)
        noise = squares[-1] * torch.finfo(squares.dtype).eps  # rounding error of each square
        roots = squares.clamp(min=0).sqrt()
        error = (noise / roots.clamp(min=noise.sqrt())).sum()
        distance = apart - 2 * roots.sum()
        if error <= NEGLIGIBLE * torch.maximum(distance, 1e-3 * variances):
            return distance
    return apart - 2 * torch.linalg.svdvals(_root(cov1).T @ _root(cov2)).sum()


def frechet_distance_of_features(x: Tensor, y: Tensor) -> Tensor:
    """``frechet_distance`` of the Gaussians of features (n, d) and (m, d), for n and m up to d.

    The trace of the root is the nuclear norm of the product of the centred features: singular values of an (n, m)
    matrix.
    """
    x, y = x.double(), y.double()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    x, y = ((side - side.mean(0)) / (len(side) - 1) ** 0.5 for side in (x, y))
    return apart + x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()


def _root(covariance: Tensor) -> Tensor:
    """R (d, rank) with RRᵀ the covariance (d, d), without the directions in which it is 0 up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    significant = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, significant] * values[significant].sqrt()
