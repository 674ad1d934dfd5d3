"""Inception score (arXiv:1606.03498) from sums, in constant memory."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.metrics.states import Accumulator, Reduction

SPLITS = 10


class InceptionScore(Accumulator):
    """exp of the mean KL divergence of each image's classes from those of its split, averaged over ten splits.

    torch-fidelity assigns images to splits by a permutation of all images, which needs their number and all of their
    logits. Here an image's split depends only on its name, so the score is the same on any number of ranks.

    Attributes:
        counts: Number of images of each split.
        probabilities: Σp over the images of each split.
        negentropies: Σ Σ p log p over the images of each split.

    Args:
        classes: Number of logits of an image.
        device: Device of the logits.
    """

    counts: Tensor
    probabilities: Tensor
    negentropies: Tensor

    def __init__(self, classes: int = 1008, device: torch.device | str = "cpu"):
        super().__init__()
        for name, shape in (("counts", (SPLITS,)), ("probabilities", (SPLITS, classes)), ("negentropies", (SPLITS,))):
            self.declare(name, torch.zeros(shape, dtype=torch.float64, device=device), Reduction.SUM)

    def update(self, names: Sequence[str], logits: Tensor) -> None:
        """Adds the logits (b, classes) of the named images."""
        splits = torch.tensor([split_of(name) for name in names], device=logits.device)
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        self.counts.index_add_(0, splits, torch.ones_like(splits, dtype=torch.float64))
        self.probabilities.index_add_(0, splits, p)
        self.negentropies.index_add_(0, splits, (p * log_p).sum(1))

    def compute(self) -> float:
        """Mean over splits that have images."""
        nonempty = self.counts > 0
        counts = self.counts[nonempty]
        mean = self.probabilities[nonempty] / counts.unsqueeze(1)
        divergence = self.negentropies[nonempty] / counts + torch.special.entr(mean).sum(1)
        return divergence.exp().mean().item()


def split_of(name: str) -> int:
    """Index of the split of an image."""
    return zlib.crc32(name.encode()) % SPLITS
