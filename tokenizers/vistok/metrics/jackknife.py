"""Delete-a-group jackknife (Kott, 2001) of Fréchet distances, which tells how far they would vary with other images."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vistok.distributed.collectives import rank_and_size, sum_over_ranks
from vistok.metrics.frechet import FeatureStatistics

GROUPS = 10
FEWEST = 20  # images, for an interval
BLOCK = 512  # rows that are read at a time


class Side(NamedTuple):
    """One of the two sets that a Fréchet distance compares."""

    statistics: FeatureStatistics  # of all images of all ranks
    read: Callable[[Sequence[int]], Tensor]  # rows of this rank to features (len(rows), d)


def group_of(name: str) -> int:
    """Group of an image, from 0 to 9. It depends only on the name: tokenizers that share images share groups."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % GROUPS


def group_sizes(names: Sequence[str]) -> Tensor:
    """Number of the named images in each group: (10,) int64."""
    return torch.tensor([group_of(name) for name in names], dtype=torch.int64).bincount(minlength=GROUPS)


def too_few(sizes: Tensor) -> str:
    """Reason why groups of these sizes (10,) give no interval; empty if they do."""
    if sizes.sum() < FEWEST or not sizes.all():
        return f"needs at least {FEWEST} images, and one in each of {GROUPS} groups by name, not {sizes.tolist()}"
    return ""


def leave_one_out(one: Side, other: Side, names: Sequence[str]) -> Tensor:
    """Fréchet distances of all images but those of one group: (10,) float64, on every rank.

    A group's statistics are removed from those of all images. Where at most d images would remain, of which
    ``FeatureStatistics`` keeps the features themselves, they are collected anew.

    Args:
        one: One of the two sets.
        other: The other set, of the same images in the same order.
        names: Names of this rank's images, in the order of their rows.
    """
    rank, size = rank_and_size()
    device = one.statistics.device
    sizes = sum_over_ranks(group_sizes(names).to(device))
    groups = torch.tensor([group_of(name) for name in names], dtype=torch.int64)
    collected = bool(sizes.sum() - sizes.max() <= one.statistics.dim)
    distances = torch.zeros(GROUPS, dtype=torch.float64, device=device)
    for group in range(GROUPS):
        rows = (groups != group if collected else groups == group).nonzero().flatten().tolist()
        parts = [_statistics(side, rows) for side in (one, other)]
        if rank == group % size:
            if not collected:
                parts = [side.statistics.without(part) for side, part in zip((one, other), parts, strict=True)]
            distances[group] = parts[0].distance(parts[1])
    return sum_over_ranks(distances).cpu()


def _statistics(side: Side, rows: Sequence[int]) -> FeatureStatistics:
    """Statistics of these rows of every rank."""
    statistics = FeatureStatistics(side.statistics.dim, side.statistics.device)
    for start in range(0, len(rows), BLOCK):
        statistics.update(side.read(rows[start : start + BLOCK]).to(statistics.device))
    return statistics.gather()
