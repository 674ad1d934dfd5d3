"""Inception score (arXiv:1606.03498), with the divisions of the images of published evaluators."""

from array import array
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vistok.metrics.states import Accumulator, Reduction, to_vector

BLOCK = 5000  # images in a block of ADM's evaluator


def one_split(names: Sequence[str]) -> np.ndarray:
    """All images in one split, as in 1d-tokenizer."""
    return np.zeros(len(names), np.int64)


def blocks(names: Sequence[str]) -> np.ndarray:
    """Blocks of 5,000 images in the order of their names, as in ADM's evaluator; the last may be smaller."""
    splits = np.empty(len(names), np.int64)
    splits[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names)) // BLOCK
    return splits


def permutation(names: Sequence[str]) -> np.ndarray:
    """Ten splits of a permutation of the images in the order of their names: torch-fidelity's default, seed 2020."""
    return _permuted(sorted(range(len(names)), key=names.__getitem__), 2020)


def permutation_0(names: Sequence[str]) -> np.ndarray:
    """``permutation`` of seed 0 in the order of file names without folders, as in FVQ."""
    return _permuted(sorted(range(len(names)), key=lambda i: (names[i].rpartition("/")[2], names[i])), 0)


def _permuted(order: Sequence[int], seed: int, count: int = 10) -> np.ndarray:
    n = len(order)
    splits = np.empty(n, np.int64)
    shuffled = np.array(order, np.int64)[np.random.RandomState(seed).permutation(n)]
    for split in range(count):
        splits[shuffled[split * n // count : (split + 1) * n // count]] = split
    return splits


# the split of each image by the names of all images
SPLITS: dict[str, Callable[[Sequence[str]], np.ndarray]] = {
    "one": one_split,
    "blocks": blocks,
    "permutation": permutation,
    "permutation_0": permutation_0,
}


class InceptionScore(Accumulator):
    """exp of the mean KL divergence of each image's classes from those of its split, averaged over splits.

    The split of an image depends on the names of all images, not on the order in which they come, so that the score is
    the same on any number of ranks. If these names are known beforehand, memory is constant; else the logits of all
    images are kept, 4 KiB for each.

    Attributes:
        counts: Number of images of each split.
        probabilities: Σp over the images of each split.
        negentropies: Σ Σ p log p over the images of each split.
        names: Names of the images whose logits are kept.
        logits: Their logits.

    Args:
        division: Division of the images into splits, of ``SPLITS``.
        all_names: Names of all images, also of those that may not come; None if they are unknown. An image that is not
            among them is an error.
        classes: Number of logits of an image.
        device: Device of the logits.
    """

    counts: Tensor
    probabilities: Tensor
    negentropies: Tensor
    names: list[str]
    logits: array

    def __init__(
        self,
        division: str = "permutation",
        all_names: Sequence[str] | None = None,
        classes: int = 1008,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.division, self.classes = division, classes
        splits = [] if all_names is None else SPLITS[division](all_names).tolist()
        self.split_of = None if all_names is None else dict(zip(all_names, splits, strict=True))
        number = max(splits, default=-1) + 1
        for name, shape in (("counts", (number,)), ("probabilities", (number, classes)), ("negentropies", (number,))):
            self.declare(name, torch.zeros(shape, dtype=torch.float64, device=device), Reduction.SUM)
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("logits", array("f"), Reduction.CONCATENATION)

    def update(self, names: Sequence[str], logits: Tensor) -> None:
        """Adds the logits (b, classes) of the named images."""
        if self.split_of is None:
            self.names += names
            self.logits.frombytes(logits.float().cpu().contiguous().numpy().tobytes())
            return
        self._add(torch.tensor([self.split_of[name] for name in names], device=logits.device), logits)

    def compute(self) -> float:
        """Mean over splits that have images. Call it after ``gather``."""
        if self.split_of is None:
            return self._of_kept().compute()
        nonempty = self.counts > 0
        counts = self.counts[nonempty]
        mean = self.probabilities[nonempty] / counts.unsqueeze(1)
        divergence = self.negentropies[nonempty] / counts + torch.special.entr(mean).sum(1)
        return divergence.exp().mean().item()

    def _of_kept(self) -> "InceptionScore":
        """The score of the kept logits, added in the order of names."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        names, logits = [self.names[i] for i in order], to_vector(self.logits).view(-1, self.classes)
        known = InceptionScore(self.division, names, self.classes)
        for first in range(0, len(order), 1000):
            known.update(names[first : first + 1000], logits[order[first : first + 1000]])
        return known

    def _add(self, splits: Tensor, logits: Tensor) -> None:
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        self.counts.index_add_(0, splits, torch.ones_like(splits, dtype=torch.float64))
        self.probabilities.index_add_(0, splits, p)
        self.negentropies.index_add_(0, splits, (p * log_p).sum(1))
