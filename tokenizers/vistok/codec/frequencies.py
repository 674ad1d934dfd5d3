"""Frequencies of codes, alone and given their neighbours, as integer tables that encoder and decoder share."""

from typing import NamedTuple

import numpy as np
import torch

from vistok.codec.reduction import reduced
from vistok.kernels import nearest_code

CLASSES = 8  # number of classes C of codewords, which define contexts
SCALE = 2**20  # approximate sum of a table, to which the largest codebook adds less than 2^23
MAX_SUM = 2**24  # float32 is exact for integers up to this
STRENGTH = 256.0  # weight, in positions, of a less specific table in the estimate of a more specific one


class Statistics(NamedTuple):
    """Frequencies of the codes of one codebook with n codewords.

    A neighbour's class is that of its codeword, or C outside the image.
    """

    frequencies: np.ndarray  # (n,) int32, above 0
    classes: np.ndarray  # (n,) uint8, below C
    rows: np.ndarray  # (C + 1, C + 1, n) int32, above 0: frequencies beside neighbours to the left and above

    @property
    def size(self) -> int:
        """Number of codewords n."""
        return len(self.frequencies)


def context_of(codes: np.ndarray, y: int, x: int, classes: np.ndarray) -> tuple[int, int]:
    """Classes of the codes (h, w) to the left of a position and above it."""
    outside = OUTSIDE
    return (
        int(classes[codes[y, x - 1]]) if x else outside,
        int(classes[codes[y - 1, x]]) if y else outside,
    )


OUTSIDE = CLASSES  # the class of neighbours outside the image


def gather(table: torch.Tensor, codes: np.ndarray) -> Statistics:
    """Statistics of training images.

    Args:
        table: Codewords (n, d).
        codes: Codes (images, h, w) of one codebook.
    """
    n = len(table)
    counts = np.bincount(codes.ravel(), minlength=n).astype(np.int64)
    classes = classes_of(table, counts)
    left = np.full(codes.shape, OUTSIDE, dtype=np.int64)
    above = left.copy()
    left[:, :, 1:], above[:, 1:] = classes[codes[:, :, :-1]], classes[codes[:, :-1]]
    pairs = np.zeros((CLASSES + 1, CLASSES + 1, n), dtype=np.int64)
    np.add.at(pairs, (left, above, codes), 1)
    alone = (counts + 0.5) / (counts + 0.5).sum()
    beside = smoothed(pairs.sum(1), alone), smoothed(pairs.sum(0), alone)  # (C + 1, n) each, of left and above
    both = smoothed(pairs, (beside[0][:, None] + beside[1][None]) / 2)
    return Statistics(integers(alone), classes, integers(both))


def smoothed(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities (..., n) from counts, with a prior that weighs as much as ``STRENGTH`` positions."""
    return (counts + STRENGTH * prior) / (counts.sum(-1, keepdims=True) + STRENGTH)


def integers(probabilities: np.ndarray) -> np.ndarray:
    """Frequencies (..., n) int32, approximately proportional to probabilities, none of them 0."""
    return 1 + (probabilities * SCALE).astype(np.int32)


def classes_of(table: torch.Tensor, counts: np.ndarray) -> np.ndarray:
    """Class (n,) uint8 of each codeword: its cluster of ``CLASSES``, or its index if there are no more codewords."""
    if len(table) <= CLASSES:
        return np.arange(len(table), dtype=np.uint8)
    centres = reduced(table, CLASSES, torch.from_numpy(counts))
    return nearest_code(table.float(), centres).numpy().astype(np.uint8)
