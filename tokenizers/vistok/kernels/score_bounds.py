"""Error bounds of scores in float32, by which a search rules codewords out.

A score z·c - |c|²/2 is d products and their sum: at most d + 4 roundings of |z||c| + |c|²/2, in any order of summation.
One bound for a block, that of its longest codeword, is enough while all have similar lengths. Where some have moved
away and others are still near 0, as at the beginning of training, it would be larger than the differences between the
short ones, so that nearly all of them would have to be compared in float64: there each codeword has its own bound.
"""

import torch
from torch import Tensor

UNIT = 2.0**-24  # largest relative error of one operation in float32
LEAST = 1e-36  # added to every bound, for scores that underflow
SHARE = 2.0**-7  # of the spread of the shortest codewords' scores that the bound of a block may reach


class Bounds:
    """Error bounds of scores, for vectors (n,) and blocks of codewords.

    Args:
        norms: |z| of each vector (n,).
        reach: Largest |c| of each block (blocks,).
        d: Dimension of vectors and codewords.
    """

    def __init__(self, norms: Tensor, reach: Tensor, d: int):
        self.norms = norms
        self.slopes = reach * ((d + 4) * UNIT)
        self.offsets = reach.square() * ((d + 4) * UNIT / 2) + LEAST
        self.lines = list(zip(self.slopes.tolist(), self.offsets.tolist(), strict=True))

    def of(self, rows: slice) -> Tensor:
        """Bounds for some vectors and all blocks: (blocks, m)."""
        return torch.addcmul(self.offsets[:, None], self.slopes[:, None], self.norms[rows])

    def below(self, scores: Tensor, block: int) -> Tensor:
        """Scores (n,) minus the bound of a block."""
        slope, offset = self.lines[block]
        return torch.sub(scores, self.norms, alpha=slope).sub_(offset)


class UnevenBlock:
    """A block whose codewords have bounds of their own.

    Args:
        halves: -|c|²/2 of its codewords (k,).
        d: Dimension of the codewords.
    """

    def __init__(self, halves: Tensor, d: int):
        unit = (d + 12) * UNIT  # eight more roundings, of the bounds' own arithmetic
        self.slopes = (-2 * halves).sqrt_().mul_(unit)
        self.offsets = halves * -unit + LEAST

    def lower(self, scores: Tensor, norms: Tensor) -> Tensor:
        """Scores (m, k) minus their bounds, in place, for vectors of these norms (m,)."""
        return scores.addr_(norms, self.slopes, alpha=-1).sub_(self.offsets)

    def upper(self, scores: Tensor, norms: Tensor) -> Tensor:
        """Scores (m, k) plus their bounds, in place."""
        return scores.addr_(norms, self.slopes).add_(self.offsets)

    def upper_of_lower(self, scores: Tensor, norms: Tensor) -> Tensor:
        """Scores plus their bounds, in place of the results of ``lower``."""
        return scores.addr_(norms, self.slopes, alpha=2).add_(self.offsets, alpha=2)


def uneven(halves: Tensor, d: int) -> UnevenBlock | None:
    """Bounds of the codewords of a block with -|c|²/2 (k,); None if one for all of them is enough."""
    longest, shortest = (-2 * bound for bound in torch.stack(torch.aminmax(halves)).tolist())
    allowed = SHARE / ((d + 4) * UNIT * d**0.5)  # ratio of lengths
    return UnevenBlock(halves, d) if longest > allowed**2 * shortest else None


def candidates(maxima: Tensor, bounds: Bounds, uppers: dict[int, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Blocks that may contain the nearest codeword of each vector, and its lowest possible score.

    Args:
        maxima: Largest score of each block (blocks, n); of uneven blocks the largest one minus its bound.
        bounds: Bounds of the blocks, 0 for uneven ones.
        uppers: Of uneven blocks by number: the largest of the scores plus their bounds (n,).
        rows: Number of vectors at a time.

    Returns:
        (blocks, n) bool and (n,).
    """
    maybe, least = torch.empty(maxima.shape, dtype=torch.bool), torch.empty(maxima.shape[1])
    for start in range(0, len(least), rows):
        own = slice(start, start + rows)
        bound = bounds.of(own)
        torch.amax(maxima[:, own] - bound, 0, out=least[own])
        torch.ge(bound.add_(maxima[:, own]), least[own], out=maybe[:, own])
    for block, upper in uppers.items():
        torch.ge(upper, least, out=maybe[block])
    return maybe, least
