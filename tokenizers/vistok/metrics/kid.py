"""Kernel distance between two sets of images (KID: arXiv:1801.01401, Section 4)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vistok.distributed.collectives import rank_and_size, sum_over_ranks
from vistok.metrics.feature_rows import FeatureRows

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets."""

    mean: float
    std: float  # over subsets, of which torch-fidelity prints it


def kernel_distance(
    reconstructions: FeatureRows, images: FeatureRows, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = SEED
) -> KernelDistance:
    """Squared maximum mean discrepancy by the kernel (xᵀy / d + 1)³, its mean over subsets of both sets.

    As torch-fidelity with the reconstructions as its first input: the same random subsets, the unbiased estimate of
    each. It can be slightly negative. Ranks share the subsets.

    Args:
        reconstructions: Features of the reconstructions.
        images: Features of the images.
        subsets: Number of subsets.
        size: Number of images in a subset, which is drawn without replacement from each set.
        seed: Seed of the subsets.

    Raises:
        ValueError: A set has fewer images than a subset.
    """
    if min(reconstructions.count, images.count) < size:
        raise ValueError(f"KID needs at least {size} images, not {min(reconstructions.count, images.count)}")
    rank, world_size = rank_and_size()
    generator = np.random.RandomState(seed)  # torch-fidelity's
    values = torch.zeros(subsets, dtype=torch.float64, device=reconstructions.device)
    for i in range(subsets):
        chosen = [generator.choice(side.count, size, replace=False).tolist() for side in (reconstructions, images)]
        if i % world_size == rank:
            values[i] = discrepancy(reconstructions.at(chosen[0]), images.at(chosen[1]))
    values = sum_over_ranks(values).cpu()
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate from two sets of features (n, d): a float64 scalar (Gretton et al. 2012, Eq. 3)."""
    x, y = x.double(), y.double()
    n, d = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    within = sum(own.sum() - own.diagonal().sum() for own in (kernel(x, x), kernel(y, y)))
    return within / (n * (n - 1)) - 2 * kernel(x, y).mean()
