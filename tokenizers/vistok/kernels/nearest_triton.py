"""Nearest codeword on a GPU: scores and their running maximum stay on chip (Triton).

There are three kernels, and nothing waits for the GPU. ``tile_maxima`` multiplies tiles on the tensor cores and keeps,
for each vector, the tile with the largest score and an upper bound of the scores in all other tiles. Scores are
computed from float32 values split into two bfloat16 parts (three products), so they are known up to a bound.
``resolve`` computes distances in float64 to the codewords of the winning tile, and lists the vectors for which another
tile may win; ``rescan`` computes all distances of those vectors. A result packs distance and code into one integer,
whose minimum is the nearest codeword, and of ties the first.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128  # codewords that ``resolve`` examines, and the largest tile of ``tile_maxima``
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on the CPU, in NumPy, to be tested
FACTOR = tl.float32 if INTERPRETED else tl.bfloat16  # the interpreter multiplies no bfloat16; the values are the same


def search(z: Tensor, codebook: Tensor) -> Tensor:
    """Codes (n,) int64 of vectors (n, d), n > 0, among codewords (k, d), of any dtype of real numbers.

    Two bfloat16 inputs are multiplied as they are, in one product instead of three; results are exact either way.
    """
    (n, d), k = z.shape, len(codebook)
    if torch.float64 in (z.dtype, codebook.dtype):
        mean = codebook.double().mean(0)
        z, codebook = (z.double() - mean).float(), (codebook.double() - mean).float()
    elif z.dtype != codebook.dtype or not z.is_floating_point():
        z, codebook = z.float(), codebook.float()
    single = z.dtype == torch.bfloat16
    mean = codebook.mean(0, dtype=torch.float32)
    mean = torch.zeros_like(mean) if single else torch.nan_to_num(mean, 0.0, 0.0, 0.0)
    bounds = torch.stack([*torch.aminmax(z), *torch.aminmax(codebook)]).float().abs()
    largest = torch.where(bounds.isfinite(), bounds, 0.0).max()
    ordinary = (largest == 0) | ((largest > 1e-15) & (largest < 1e15))
    scale = torch.where(ordinary, 1.0, torch.exp2(-torch.log2(largest).round()))

    processors = torch.cuda.get_device_properties(z.device).multi_processor_count if z.is_cuda else 2
    splits = max(1, min(2 * processors // triton.cdiv(n, 128), k // (8 * TILE)))
    span = triton.cdiv(triton.cdiv(k, splits), TILE) * TILE
    splits = triton.cdiv(k, span)
    width = 32 if d > 64 else max(16, triton.next_power_of_2(d))  # columns of a product
    halves = torch.empty(k, device=z.device)
    scores = torch.empty(3, splits, n, device=z.device)  # the best, its upper bound, that of all other tiles
    starts = torch.empty(splits, n, dtype=torch.int32, device=z.device)
    packed = torch.empty(n, dtype=torch.int64, device=z.device)
    listed = torch.empty(n, dtype=torch.int32, device=z.device)
    count = torch.zeros(1, dtype=torch.int32, device=z.device)

    places = (z, codebook, mean, scale)
    shape = (n, k, d, *z.stride(), *codebook.stride())
    half_norms[(triton.cdiv(k, TILE),)](codebook, mean, scale, halves, k, d, *codebook.stride(), BD=min(width, 32))
    tile_maxima[lambda config: (triton.cdiv(n, config["BM"]), splits)](
        *places, halves, scores, starts, *shape, span, splits, BD=width, FULL=d <= width, SINGLE=single, FACTOR=FACTOR
    )
    resolve[(n,)](*places, scores, starts, packed, listed, count, *shape, splits, BD=min(width, 32))
    rescan[(4 * processors,)](*places, packed, listed, count, *shape, BD=16)
    return packed & 0xFFFFFFFF


@triton.jit
def load(place, rows, columns, stride, column_stride, inside):
    """Tile of vectors in float32, with 0 for values outside or not finite."""
    offsets = rows.to(tl.int64)[:, None] * stride + columns[None, :] * column_stride
    x = tl.load(place + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def half_norms(codebook, mean, scale, halves, k, d, stride, column_stride, BD: tl.constexpr):
    """-|c|²/2 of each centred codeword; infinity for one with a NaN, which then wins, -infinity for other infinite."""
    rows = tl.program_id(0) * 128 + tl.arange(0, 128)
    squares = tl.zeros((128,), tl.float32)
    unlike = tl.zeros((128,), tl.float32)
    factor = tl.load(scale)
    for start in range(0, d, BD):
        columns = start + tl.arange(0, BD)
        inside = (rows < k)[:, None] & (columns < d)[None, :]
        offsets = rows.to(tl.int64)[:, None] * stride + columns[None, :] * column_stride
        raw = tl.load(codebook + offsets, mask=inside, other=0.0).to(tl.float32)
        centre = tl.load(mean + columns, mask=columns < d, other=0.0)
        c = tl.where(inside & (tl.abs(raw) < float("inf")), (raw - centre[None, :]) * factor, 0.0)
        squares += tl.sum(c * c, 1)
        unlike = tl.maximum(
            unlike, tl.max(tl.where(raw != raw, 2.0, tl.where(tl.abs(raw) < float("inf"), 0.0, 1.0)), 1)
        )
    value = tl.where(unlike == 2.0, float("inf"), tl.where(unlike == 1.0, -float("inf"), -0.5 * squares))
    tl.store(halves + rows, value, mask=rows < k)


CONFIGS = [
    triton.Config({"BM": bm, "BN": bn}, num_warps=warps, num_stages=stages)
    for bm, bn, warps, stages in [
        (64, 64, 4, 3),
        (128, 64, 4, 3),
        (128, 128, 4, 2),
        (256, 128, 8, 2),
        (256, 128, 8, 3),
    ]
]


@triton.jit(do_not_specialize=["splits"])  # 1 would become a constant, which is no tensor
def tile_maxima(
    z, codebook, mean, scale, halves, scores, starts,
    n, k, d, z_stride, z_column, c_stride, c_column, span, splits,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, FULL: tl.constexpr, SINGLE: tl.constexpr,
    FACTOR: tl.constexpr,
):  # fmt: skip
    """Best tile for BM vectors within one span of codewords, and an upper bound of all other scores.

    ``FULL``: all d columns fit in BD, so that the vectors are loaded once. ``SINGLE``: bfloat16 needs no splitting.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    factor = tl.load(scale)
    lanes = tl.arange(0, BD)
    squares = tl.zeros((BM,), tl.float32)
    x = tl.zeros((BM, BD), tl.float32)
    for start in range(0, d, BD):
        columns = start + lanes
        inside = (rows < n)[:, None] & (columns < d)[None, :]
        centre = tl.load(mean + columns, mask=columns < d, other=0.0)
        x = load(z, rows, columns, z_stride, z_column, inside)
        x = tl.where(inside, (x - centre[None, :]) * factor, 0.0)
        squares += tl.sum(x * x, 1)
    norms = tl.sqrt(squares)
    # Three roundings to 16 bits each side of a product, and d sums in whichever order, on units that may truncate.
    gamma = (2 * d + 8) * 5.9604645e-08 + (0.0 if SINGLE else 1.52587890625e-05)
    high = x.to(tl.bfloat16)
    low = (x - high.to(tl.float32)).to(tl.bfloat16)

    best = tl.full((BM,), -float("inf"), tl.float32)
    upper = tl.full((BM,), -float("inf"), tl.float32)
    others = tl.full((BM,), -float("inf"), tl.float32)
    where = tl.zeros((BM,), tl.int32)
    for first in range(split * span, tl.minimum(split * span + span, k), BN):
        codes = first + tl.arange(0, BN)
        bias = tl.load(halves + codes, mask=codes < k, other=-float("inf"))
        score = tl.zeros((BM, BN), tl.float32)
        for start in range(0, d, BD):
            columns = start + lanes
            centre = tl.load(mean + columns, mask=columns < d, other=0.0)
            if not FULL:
                inside = (rows < n)[:, None] & (columns < d)[None, :]
                x = load(z, rows, columns, z_stride, z_column, inside)
                x = tl.where(inside, (x - centre[None, :]) * factor, 0.0)
                high = x.to(tl.bfloat16)
                low = (x - high.to(tl.float32)).to(tl.bfloat16)
            valid = (codes < k)[:, None] & (columns < d)[None, :]
            c = load(codebook, codes, columns, c_stride, c_column, valid)
            c = tl.where(valid, (c - centre[None, :]) * factor, 0.0)
            c_high = c.to(tl.bfloat16)
            right = tl.trans(c_high.to(FACTOR))
            if not SINGLE:
                c_low = (c - c_high.to(tl.float32)).to(tl.bfloat16)
                score = tl.dot(low.to(FACTOR), right, score)
                score = tl.dot(high.to(FACTOR), tl.trans(c_low.to(FACTOR)), score)
            score = tl.dot(high.to(FACTOR), right, score)
        top = tl.max(score + bias[None, :], 1)
        reach = tl.sqrt(-2 * tl.min(tl.where((bias > -float("inf")) & (bias < 0), bias, 0.0), 0))
        bound = top + (norms * reach + reach * reach / 2) * gamma + 1e-36
        better = top > best  # a tie keeps the earlier tile
        others = tl.maximum(others, tl.where(better, upper, bound))
        upper = tl.where(better, bound, upper)
        where = tl.where(better, first, where)
        best = tl.where(better, top, best)
    place = split.to(tl.int64) * n + rows
    size = splits.to(tl.int64) * n
    tl.store(scores + place, best, mask=rows < n)
    tl.store(scores + size + place, upper, mask=rows < n)
    tl.store(scores + 2 * size + place, others, mask=rows < n)
    tl.store(starts + place, where, mask=rows < n)


# Under the interpreter there is nothing to tune, and no GPU to time it on.
tile_maxima = triton.autotune(CONFIGS[:1] if INTERPRETED else CONFIGS, ["d", "SINGLE"])(tile_maxima)


@triton.jit
def pack(distance, codes):
    """Distances in float64 and codes as integers of that order; NaN is the least."""
    bits = tl.where(distance == distance, distance, -1.0).to(tl.float32).to(tl.int32, bitcast=True)
    return (bits.to(tl.int64) << 32) | codes.to(tl.int64)


@triton.jit(do_not_specialize=["splits"])
def resolve(
    z, codebook, mean, scale, scores, starts, packed, listed, count,
    n, k, d, z_stride, z_column, c_stride, c_column, splits, BD: tl.constexpr,
):  # fmt: skip
    """Nearest codeword in the best tile of one vector; lists the vector if another tile may have a nearer one."""
    row = tl.program_id(0).to(tl.int64)
    best = -float("inf")
    upper = -float("inf")
    others = -float("inf")
    first = 0
    size = splits.to(tl.int64) * n
    for split in range(0, splits):
        place = split * n + row
        top, bound = tl.load(scores + place), tl.load(scores + size + place)
        better = top > best
        others = tl.maximum(others, tl.where(better, upper, bound))
        others = tl.maximum(others, tl.load(scores + 2 * size + place))
        upper = tl.where(better, bound, upper)
        first = tl.where(better, tl.load(starts + place), first)
        best = tl.where(better, top, best)
    codes = first + tl.arange(0, 128)
    distance = tl.zeros((128,), tl.float64)
    factor = tl.load(scale).to(tl.float64)
    unlike = 0.0
    for start in range(0, d, BD):
        columns = start + tl.arange(0, BD)
        inside = (codes < k)[:, None] & (columns < d)[None, :]
        x = tl.load(z + row * z_stride + columns * z_column, mask=columns < d, other=0.0).to(tl.float32).to(tl.float64)
        unlike = tl.maximum(unlike, tl.max(tl.where(tl.abs(x) < float("inf"), 0.0, 1.0), 0))
        offsets = codes.to(tl.int64)[:, None] * c_stride + columns[None, :] * c_column
        c = tl.load(codebook + offsets, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
        difference = tl.where(inside, x[None, :] - c, 0.0) * factor
        distance += tl.sum(difference * difference, 1)
    largest: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    key = tl.min(tl.where(codes < k, pack(distance, codes), largest), 0)
    doubtful = (others >= 2 * best - upper) & (unlike == 0.0)
    tl.store(packed + row, tl.where(unlike > 0.0, 0, key))  # a vector that is not finite gets code 0
    if doubtful:
        tl.store(listed + tl.atomic_add(count, 1), row.to(tl.int32))


@triton.jit
def rescan(
    z, codebook, mean, scale, packed, listed, count,
    n, k, d, z_stride, z_column, c_stride, c_column, BD: tl.constexpr,
):  # fmt: skip
    """All distances of the listed vectors, in float64, 16 vectors and 1024 codewords at a time."""
    number = tl.load(count)
    spans = tl.cdiv(k, 1024)
    factor = tl.load(scale).to(tl.float64)
    largest: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    for item in range(tl.program_id(0), tl.cdiv(number, 16) * spans, tl.num_programs(0)):
        slots = item // spans * 16 + tl.arange(0, 16)
        rows = tl.load(listed + slots, mask=slots < number, other=0)
        least = tl.full((16,), largest, tl.int64)
        span = item % spans * 1024
        for first in range(span, tl.minimum(span + 1024, k), 16):
            codes = first + tl.arange(0, 16)
            distance = tl.zeros((16, 16), tl.float64)
            for start in range(0, d, BD):
                columns = start + tl.arange(0, BD)
                within = columns < d
                x_offsets = rows.to(tl.int64)[:, None] * z_stride + columns[None, :] * z_column
                c_offsets = codes.to(tl.int64)[:, None] * c_stride + columns[None, :] * c_column
                x = tl.load(z + x_offsets, mask=within[None, :], other=0.0).to(tl.float32).to(tl.float64)
                c = tl.load(codebook + c_offsets, mask=(codes < k)[:, None] & within[None, :], other=0.0)
                difference = (x[:, None, :] - c.to(tl.float32).to(tl.float64)[None, :, :]) * factor
                distance += tl.sum(difference * difference, 2)
            key = tl.where((codes < k)[None, :], pack(distance, codes[None, :]), largest)
            least = tl.minimum(least, tl.min(key, 1))
        tl.atomic_min(packed + rows, least, mask=slots < number)
