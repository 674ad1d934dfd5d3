"""Improved precision and recall (arXiv:1904.06991), as ADM's evaluator computes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from vistok.distributed.collectives import rank_and_size, sum_over_ranks
from vistok.metrics.feature_rows import FeatureRows

NEIGHBOURS = 3
BLOCK = 2048


class PrecisionRecall(NamedTuple):
    """Shares of two sets that lie on the manifold of the other one."""

    precision: float  # of the reconstructions, on the manifold of the images
    recall: float  # of the images, on the manifold of the reconstructions


def precision_recall(reconstructions: FeatureRows, images: FeatureRows) -> PrecisionRecall:
    """Precision and recall of reconstructions; the manifold of a set are balls around its features.

    A ball reaches to the third nearest other feature of its set. Squared distances are rounded to half precision, as
    ADM's are wherever all of a block are finite. Blocks of distances are in memory, and ranks share them.

    Raises:
        ValueError: A set has at most 3 images.
    """
    if min(reconstructions.count, images.count) <= NEIGHBOURS:
        raise ValueError(f"precision and recall need more than {NEIGHBOURS} images")
    rank, size = rank_and_size()
    reach, reach_images = squared_radii(reconstructions), squared_radii(images)
    inside, covered = (torch.zeros(own.count, device=own.device) for own in (reconstructions, images))
    for rows, x in images.blocks(BLOCK, rank, size):
        for columns, y in reconstructions.blocks(BLOCK):
            distances = squared_distances_in_half(x, y)
            covered[rows] += (distances <= reach[columns]).any(1)
            inside[columns] += (distances <= reach_images[rows, None]).any(0)
    shares = [(sum_over_ranks(hits) > 0).double().mean().item() for hits in (inside, covered)]
    return PrecisionRecall(*shares)


def squared_radii(features: FeatureRows) -> Tensor:
    """Squared distance of each feature to the third nearest other one: (n,) float32, on every rank."""
    rank, size = rank_and_size()
    radii = torch.zeros(features.count, device=features.device)
    for rows, x in features.blocks(BLOCK, rank, size):
        nearest = torch.empty(len(x), 0, device=features.device)
        for _, y in features.blocks(BLOCK):
            candidates = torch.cat([nearest, squared_distances_in_half(x, y)], 1)
            nearest = candidates.topk(min(NEIGHBOURS + 1, candidates.shape[1]), largest=False).values
        radii[rows] = nearest[:, NEIGHBOURS]  # the nearest is the feature itself
    return sum_over_ranks(radii)


def squared_distances_in_half(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|² of all pairs of rows (n, d) and (m, d), float32 (n, m): ADM's, every step rounded to half precision.

    Where a distance overflows, all are computed in float32.
    """

    def distances(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        def rounded(value: Tensor) -> Tensor:
            return value.to(dtype).float()

        x, y = rounded(x), rounded(y)
        lengths = [rounded(rounded(side.square()).sum(1)) for side in (x, y)]
        products = rounded(2 * rounded(x @ y.T))
        return rounded(rounded(lengths[0][:, None] - products) + lengths[1]).clamp(min=0)

    found = distances(x, y, torch.float16)
    return found if found.isfinite().all() else distances(x, y, torch.float32)
