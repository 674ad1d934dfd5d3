"""CMMD: maximum mean discrepancy of CLIP's embeddings (arXiv:2401.09603)."""

import torch
from torch import Tensor

from vistok.distributed.collectives import rank_and_size, sum_over_ranks
from vistok.metrics.feature_rows import FeatureRows

SIGMA, SCALE = 10, 1000  # width of the kernel, and factor of the result
BLOCK = 1024


def cmmd(reconstructions: FeatureRows, images: FeatureRows) -> float:
    """Squared discrepancy by the kernel exp(-|x - y|² / (2 · 10²)), times 1,000: the biased estimate, as published.

    Kernels are summed as their differences from 1, which are small for embeddings of length 1. Blocks of distances are
    in memory, and ranks share them.
    """
    rank, size = rank_and_size()
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    for one, other, weight in (
        (reconstructions, reconstructions, 1),
        (images, images, 1),
        (reconstructions, images, -2),
    ):
        own = torch.zeros_like(total)
        for _, x in one.blocks(BLOCK, rank, size):
            for _, y in other.blocks(BLOCK):
                own += torch.expm1(squared_distances(x, y) / (-2 * SIGMA**2)).sum(dtype=torch.float64)
        total += weight * own / (one.count * other.count)
    return SCALE * sum_over_ranks(total).item()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|² of all pairs of rows (n, d) and (m, d): (n, m)."""
    return x.square().sum(1)[:, None] - 2 * (x @ y.T) + y.square().sum(1)
