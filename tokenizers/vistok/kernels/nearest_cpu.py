"""The nearest codeword on a CPU: matrix products that stay in the cache, and exact distances where they nearly tie.

Three facts shape it. A fresh n × k matrix costs more than the product that fills it, so one small buffer is used again
and again. ``argmax`` is ten times slower than ``amax``, so a first pass keeps the largest score of each block of
codewords alone, and a second finds the codeword in the blocks that may hold it. And a score in float32 is only known
to a bound, so codewords whose scores lie within it are compared by their distances in float64.
"""

import math

import torch
from torch import Tensor

BLOCK = 512  # codewords in a block
ROWS = 512  # vectors in a product: its scores take 1 MiB
ROWS_AT_ONCE = 2048  # vectors whose block maxima are kept at once
PANEL = 2**19  # floats of the codebook that are centred at once
UNIT = 2.0**-24  # largest relative error of one operation in float32


def search(z: Tensor, codebook: Tensor) -> Tensor:
    """Codes (n,) int64 of vectors (n, d), n > 0, among codewords (k, d), of any dtype of real numbers."""
    frame = Frame(z, codebook)
    if not frame.finite:
        return reference(z, codebook)
    if frame.one_point:
        return torch.zeros(len(z), dtype=torch.int64)
    scratch = torch.empty(min(ROWS, len(z)) * min(BLOCK, len(codebook)))
    return torch.cat([_search(part, codebook, frame, scratch) for part in z.split(ROWS_AT_ONCE)])


def reference(z: Tensor, codebook: Tensor) -> Tensor:
    """The slow search that defines the result: the least of all distances in float64, by differences."""
    rows = max(1, 2**20 // len(codebook))
    codes = torch.cat([distances(part, codebook).argmin(1) for part in z.split(rows)])
    return codes.where(z.isfinite().all(1), 0)


class Frame:
    """The shift and the scale in which scores are computed: the codebook's mean, and a power of two.

    Attributes:
        finite: Whether all numbers are; the others mean nothing if not.
        one_point: Whether all numbers of the codebook are equal.
        scale: 1 unless squares would leave float32's range.
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
    size = block_size(len(codebook))
    centred = frame(z)
    norms = torch.linalg.vector_norm(centred, dim=1)
    maxima, halves = block_maxima(centred, codebook, frame, scratch, size)
    reach = torch.stack([part.amin() for part in halves.split(size)]).mul_(-2).sqrt_()  # largest norm in each block
    maybe = candidates(maxima, norms, reach, z.shape[1])
    codes = torch.empty(len(z), dtype=torch.int64)
    doubtful = maybe.sum(0) > 1
    rows = (maybe & ~doubtful).nonzero()  # (block, row), by block
    slack = 2 * error_bound(norms[rows[:, 1]], reach[rows[:, 0]], z.shape[1])
    parts = torch.bincount(rows[:, 0], minlength=len(maybe)).tolist()
    places, sure = within_blocks(centred[rows[:, 1]], slack, parts, codebook, halves, frame, scratch, size)
    codes[rows[:, 1]] = places + rows[:, 0] * size
    doubtful[rows[:, 1]] |= ~sure
    exactly = doubtful.nonzero()[:, 0]
    if len(exactly):
        codes[exactly] = nearest_of(z[exactly], codebook, maybe[:, exactly], size)
    return codes


def block_size(k: int) -> int:
    """Codewords in a block: fewer in a small codebook, where the second pass would cost as much as the first."""
    return BLOCK if k > 4 * BLOCK else BLOCK // 4


def block_maxima(z: Tensor, codebook: Tensor, frame: Frame, scratch: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """For centred vectors (n, d): the largest score in each block (blocks, n), and every codeword's -|c|²/2 (k,)."""
    k, d = codebook.shape
    maxima, halves = torch.empty(-(-k // size), len(z)), torch.empty(k)
    width = max(1, PANEL // (d * size)) * size
    for start in range(0, k, width):
        panel = frame(codebook[start : start + width])
        torch.sum(panel.square(), 1, out=halves[start : start + width]).mul_(-0.5)
        for at in range(0, len(panel), size):
            block, own = panel[at : at + size].T, halves[start + at : start + at + size]
            for row in range(0, len(z), ROWS):
                part = z[row : row + ROWS]
                scores = scratch[: len(part) * len(own)].view(len(part), -1)
                torch.addmm(own, part, block, out=scores)
                torch.amax(scores, 1, out=maxima[(start + at) // size, row : row + ROWS])
    return maxima, halves


def error_bound(norms: Tensor, reach: Tensor, d: int) -> Tensor:
    """How far a score in float32 may be from z·c - |c|²/2, for all vectors of these norms and codewords up to reach.

    Of d products and their sum, at most d + 4 roundings of |z||c| + |c|²/2 in whichever order they are added.
    """
    return (norms * reach + reach.square() / 2) * ((d + 4) * UNIT) + 1e-36


def candidates(maxima: Tensor, norms: Tensor, reach: Tensor, d: int) -> Tensor:
    """Which blocks may hold the nearest codeword of each vector: (blocks, n) bool."""
    parts = []
    for part, own in zip(maxima.split(ROWS, 1), norms.split(ROWS), strict=True):
        bound = error_bound(own, reach[:, None], d)
        least = (part - bound).amax(0)
        parts.append(bound.add_(part) >= least)
    return torch.cat(parts, 1)


def within_blocks(
    z: Tensor,
    slack: Tensor,
    parts: list[int],
    codebook: Tensor,
    halves: Tensor,
    frame: Frame,
    scratch: Tensor,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Where in its block the best codeword of each vector is, and whether no other scores within ``slack`` of it.

    Args:
        z: Centred vectors (m, d), sorted by block.
        slack: (m,).
        parts: How many vectors are of each block.
        halves: Every codeword's -|c|²/2 (k,).
    """
    weights = torch.arange(size, dtype=torch.float32) + 2**15  # sums tell one codeword, and where, from several
    found = torch.empty(len(z))
    for b, (vectors, margin, out) in enumerate(zip(*(t.split(parts) for t in (z, slack, found)), strict=True)):
        if not len(vectors):
            continue
        block, own = frame(codebook[b * size : (b + 1) * size]), halves[b * size : (b + 1) * size]
        for row in range(0, len(vectors), ROWS):
            part = vectors[row : row + ROWS]
            scores = scratch[: len(part) * len(block)].view(len(part), -1)
            torch.addmm(own, part, block.T, out=scores)
            least = scores.amax(1).sub_(margin[row : row + ROWS])
            near = torch.ge(scores, least[:, None], out=scores)
            torch.mv(near, weights[: len(block)], out=out[row : row + ROWS])
    return found.long() % 2**15, found < 2**16


def nearest_of(z: Tensor, codebook: Tensor, maybe: Tensor, size: int) -> Tensor:
    """Codes (m,) of vectors (m, d) by distances in float64 to all codewords of the blocks that may hold them."""
    codes = torch.zeros(len(z), dtype=torch.int64)
    nearest = torch.full((len(z),), math.inf, dtype=torch.float64)
    for b in maybe.any(1).nonzero()[:, 0].tolist():
        block = codebook[b * size : (b + 1) * size].double()
        for rows in maybe[b].nonzero()[:, 0].split(ROWS):
            distance, place = distances(z[rows], block).min(1)
            closer = distance < nearest[rows]  # a tie keeps the earlier block
            codes[rows[closer]] = place[closer] + b * size
            nearest[rows[closer]] = distance[closer]
    return codes


def distances(z: Tensor, codebook: Tensor) -> Tensor:
    """All distances (n, k) in float64, from differences, so that equal codewords are equally far."""
    return torch.cdist(z.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
