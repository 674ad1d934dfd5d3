"""Nearest codeword on a CPU: matrix products that stay in the cache, and exact distances for near ties.

Three facts shape it. A new n × k matrix costs more than the product that fills it, so one small buffer is reused.
``argmax`` is ten times slower than ``amax``, so a first pass keeps only the largest score of each block of codewords,
and a second pass finds the codeword in the blocks that may contain it. A score in float32 is known only up to a bound,
so codewords whose scores differ by less are compared by their distances in float64.
"""

import math

import torch
from torch import Tensor

from vistok.kernels.score_bounds import Bounds, UnevenBlock, candidates, uneven

BLOCK = 512  # codewords in a block
SMALL = 2048  # codewords that are one block
ROWS = 512  # vectors in a product: its scores take 1 MiB
ROWS_AT_ONCE = 2048  # vectors whose block maxima are kept at once
PANEL = 2**19  # floats of the codebook that are centred at once
EQUAL = 1e-13  # relative difference between distances in float64 that rounding may make


def search(z: Tensor, codebook: Tensor) -> Tensor:
    """Codes (n,) int64 of vectors (n, d), n > 0, among codewords (k, d), of any dtype of real numbers."""
    frame = Frame(z, codebook)
    if not frame.finite:
        return reference(z, codebook)
    if frame.one_point:
        return torch.zeros(len(z), dtype=torch.int64)
    if len(codebook) <= SMALL:
        return _search_small(z, codebook, frame)
    scratch = torch.empty(min(ROWS, len(z)) * BLOCK)
    return torch.cat([_search(part, codebook, frame, scratch) for part in z.split(ROWS_AT_ONCE)])


def reference(z: Tensor, codebook: Tensor) -> Tensor:
    """Slow search that defines the result: the smallest of all distances in float64, from differences."""
    rows = max(1, 2**20 // len(codebook))
    codes = torch.cat([distances(part, codebook).argmin(1) for part in z.split(rows)])
    return codes.where(z.isfinite().all(1), 0)


class Frame:
    """Shift and scale in which scores are computed: the codebook's mean, and a power of two.

    Attributes:
        finite: True if all numbers are finite; the other attributes are undefined otherwise.
        one_point: True if all numbers of the codebook are equal.
        scale: 1 unless squares would exceed float32's range.
    """

    def __init__(self, z: Tensor, codebook: Tensor):
        sums, bounds = torch.zeros(codebook.shape[1], dtype=torch.float64), []
        for part in codebook.split(max(1, PANEL // codebook.shape[1])):
            part = part.to(_wide(part))
            sums += part.sum(0)
            bounds += torch.stack(torch.aminmax(part)).tolist()
        self.one_point = min(bounds) == max(bounds)
        bounds += torch.stack(torch.aminmax(z)).tolist()
        self.finite = all(math.isfinite(bound) for bound in bounds)
        largest = max(abs(bound) for bound in bounds)
        ordinary = not self.finite or largest == 0 or 1e-15 < largest < 1e15
        self.scale = 1.0 if ordinary else 2.0 ** -round(math.log2(largest))
        centre = sums / len(codebook)
        self.centre = centre.where(centre.isfinite(), 0.0)  # sums in float32 may overflow; any centre will do

    def __call__(self, vectors: Tensor) -> Tensor:
        """Vectors (m, d) in this frame, in float32."""
        if self.scale != 1:
            return ((vectors.double() - self.centre) * self.scale).float()
        wide = _wide(vectors)
        return (vectors.to(wide) - self.centre.to(wide)).float()


def _wide(vectors: Tensor) -> torch.dtype:
    return torch.float32 if vectors.dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.float64


def _search(z: Tensor, codebook: Tensor, frame: Frame, scratch: Tensor) -> Tensor:
    """Vectors few enough to keep the maxima of all blocks."""
    centred = frame(z)
    norms = torch.linalg.vector_norm(centred, dim=1)
    maxima, halves, own_bounds = block_maxima(centred, norms, codebook, frame, scratch)
    reach = torch.stack([part.amin() for part in halves.split(BLOCK)]).mul_(-2).sqrt_()
    reach[list(own_bounds)] = 0
    bounds = Bounds(norms, reach, z.shape[1])
    maybe, least = candidates(maxima, bounds, {b: upper for b, (_, upper) in own_bounds.items()}, ROWS)
    choice = Choice(z, codebook, several=maybe.sum(0) > 1)
    for b in maybe.any(1).nonzero()[:, 0].tolist():
        start = b * BLOCK
        block, own_halves = frame(codebook[start : start + BLOCK]), halves[start : start + BLOCK]
        own, enough = own_bounds.get(b), bounds.below(least, b)
        for rows in maybe[b].nonzero()[:, 0].split(ROWS):
            scores = product(own_halves, centred[rows], block, scratch)
            if own is not None:
                scores, enough = own[0].upper(scores, norms[rows]), least
            choice.among(rows, torch.ge(scores, enough[rows, None], out=scores), start)
    return choice.codes()


def _search_small(z: Tensor, codebook: Tensor, frame: Frame) -> Tensor:
    """Searches a codebook of one block, whose scores need to be computed only once."""
    block, choice = frame(codebook), Choice(z, codebook)
    halves = block.square().sum(1).mul_(-0.5)
    reach, own = (-2 * halves.amin(0, keepdim=True)).sqrt_(), uneven(halves, z.shape[1])
    together = max(1, min(len(z), ROWS_AT_ONCE, 2 * ROWS * BLOCK // len(block)))
    scratch = torch.empty(together * len(block))
    for rows in torch.arange(len(z)).split(together):
        centred = frame(z[rows])
        norms = torch.linalg.vector_norm(centred, dim=1)
        scores = product(halves, centred, block, scratch)
        if own is None:
            bounds = Bounds(norms, reach, z.shape[1])
            enough = bounds.below(bounds.below(scores.amax(1), 0), 0)
        else:
            enough = own.lower(scores, norms).amax(1)
            own.upper_of_lower(scores, norms)
        choice.among(rows, torch.ge(scores, enough[:, None], out=scores), 0)
    return choice.codes()


def product(halves: Tensor, z: Tensor, block: Tensor, scratch: Tensor) -> Tensor:
    """Scores of centred vectors (m, d) and codewords (k, d) with -|c|²/2 (k,), in memory that is there: (m, k)."""
    return torch.addmm(halves, z, block.T, out=scratch[: len(z) * len(block)].view(len(z), len(block)))


def block_maxima(
    z: Tensor, norms: Tensor, codebook: Tensor, frame: Frame, scratch: Tensor
) -> tuple[Tensor, Tensor, dict[int, tuple[UnevenBlock, Tensor]]]:
    """Largest score in each block (blocks, n) for centred vectors (n, d) with norms (n,).

    Returns:
        The largest scores, of uneven blocks minus their bounds; -|c|²/2 of every codeword (k,); and of uneven blocks
        by number their bounds, and the largest scores plus bounds (n,).
    """
    k, d = codebook.shape
    maxima, halves, own_bounds = torch.empty(-(-k // BLOCK), len(z)), torch.empty(k), {}
    width = max(1, PANEL // (d * BLOCK)) * BLOCK
    for start in range(0, k, width):
        panel = frame(codebook[start : start + width])
        torch.sum(panel.square(), 1, out=halves[start : start + width]).mul_(-0.5)
        for at in range(0, len(panel), BLOCK):
            block, own = panel[at : at + BLOCK], halves[start + at : start + at + BLOCK][: len(panel) - at]
            number, bounds = (start + at) // BLOCK, uneven(own, d)
            if bounds is not None:
                own_bounds[number] = bounds, torch.empty(len(z))
            for row in range(0, len(z), ROWS):
                rows = slice(row, row + ROWS)
                scores = product(own, z[rows], block, scratch)
                if bounds is not None:
                    bounds.lower(scores, norms[rows])
                torch.amax(scores, 1, out=maxima[number, rows])
                if bounds is not None:
                    torch.amax(bounds.upper_of_lower(scores, norms[rows]), 1, out=own_bounds[number][1][rows])
    return maxima, halves, own_bounds


class Choice:
    """Nearest codewords so far: by the best score, or by distances in float64 where scores cannot decide.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d).
        several: Vectors whose nearest codeword may be in several blocks (n,) bool; None for none.
    """

    def __init__(self, z: Tensor, codebook: Tensor, several: Tensor | None = None):
        self.z, self.codebook = z, codebook
        self.several = several if several is not None and several.any() else None
        self.weights = torch.arange(max(SMALL, BLOCK), dtype=torch.float32) + 2**15  # sums tell one codeword, and where
        self.sums, self.starts = torch.zeros(len(z)), torch.zeros(len(z), dtype=torch.int64)
        self.nearest = torch.full((len(z),), math.inf, dtype=torch.float64)
        self.compared = torch.zeros(len(z), dtype=torch.int64)

    def codes(self) -> Tensor:
        """Codes (n,), after all blocks were processed."""
        return torch.where(self.nearest.isfinite(), self.compared, self.sums.long() % 2**15 + self.starts)

    def among(self, rows: Tensor, near: Tensor, start: int) -> None:
        """Processes codewords from ``start`` on for vectors ``rows`` (m,); ``near`` (m, size) is 1 for candidates.

        Blocks must be processed in order, so that the first of equally near codewords is kept.
        """
        sums = torch.mv(near, self.weights[: near.shape[1]])
        self.sums[rows], self.starts[rows] = sums, start
        doubtful = sums >= 2**16
        if self.several is not None:
            doubtful |= self.several[rows]
        if doubtful.any():
            self.compare(rows[doubtful], near[doubtful], start)

    def compare(self, rows: Tensor, near: Tensor, start: int) -> None:
        """Same as ``among``, by distances."""
        if near.count_nonzero() * 8 > near.numel():
            block = self.codebook[start : start + near.shape[1]]
            self._keep(rows, *distances(self.z[rows], block).min(1), start)
            return
        for i, places in (pairs.unbind(1) for pairs in near.nonzero().split(max(1, PANEL // self.z.shape[1]))):
            difference = self.z[rows[i]].double() - self.codebook[start + places].double()
            distance = difference.square_().sum(1).sqrt_()
            least = torch.full((len(rows),), math.inf, dtype=torch.float64).scatter_reduce_(0, i, distance, "amin")
            first = distance <= least[i] * (1 + EQUAL)
            place = torch.full_like(rows, near.shape[1]).scatter_reduce_(0, i[first], places[first], "amin")
            self._keep(rows, least, place, start)

    def _keep(self, rows: Tensor, distance: Tensor, place: Tensor, start: int) -> None:
        nearer = distance < self.nearest[rows] * (1 - EQUAL)  # a tie keeps the earlier codeword
        self.nearest[rows[nearer]] = distance[nearer]
        self.compared[rows[nearer]] = place[nearer] + start


def distances(z: Tensor, codebook: Tensor) -> Tensor:
    """All distances (n, k) in float64, from differences, so that equal codewords have equal distances."""
    return torch.cdist(z.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
