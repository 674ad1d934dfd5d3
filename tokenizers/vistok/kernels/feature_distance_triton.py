"""The distance of normalised features on a GPU: one pass forward and one backward, arithmetic in float32 (Triton).

A tile is all channels of a few positions; features may be channels last or channels first. No sum depends on the order
of programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of a tile
OPTIONS = {"enable_fp_fusion": False}  # equal features give exactly 0
PROGRAMS = 4  # for each processor, over which the positions of all images are spread


def forward(x: Tensor, target: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Result of ``normalised_distance``; no tensor is empty."""
    x, target = x.flatten(2), target.flatten(2)  # views of either memory format
    b, c, n = x.shape
    block, rows = _tile(c)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2
    splits = max(1, min(PROGRAMS * processors // b, triton.cdiv(n, rows)))
    span = triton.cdiv(triton.cdiv(n, splits), rows) * rows
    partial = torch.empty(b, triton.cdiv(n, span), device=x.device)
    sums[tuple(partial.shape)](
        x, target, weight, partial, n, c, span, *x.stride(), *target.stride(),
        EPSILON=epsilon, BN=rows, BC=block, **OPTIONS,
    )  # fmt: skip
    return partial.sum(1) / n


def backward(gradient: Tensor, x: Tensor, target: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Result of ``feature_distance.backward``; no tensor is empty."""
    shape, x, target = x.shape, x.flatten(2), target.flatten(2)
    to_x = torch.empty_like(x)
    b, c, n = x.shape
    block, rows = _tile(c)
    gradients[(b, triton.cdiv(n, rows))](
        gradient.contiguous(), x, target, weight, to_x, n, c, *x.stride(), *target.stride(), *to_x.stride(),
        EPSILON=epsilon, BN=rows, BC=block, **OPTIONS,
    )  # fmt: skip
    return to_x.unflatten(2, shape[2:])


def _tile(channels: int) -> tuple[int, int]:
    block = triton.next_power_of_2(channels)
    return block, max(1, ELEMENTS // block)


@triton.jit
def normalised(x, offsets, inside, EPSILON: tl.constexpr):
    """Normalised features of a tile (positions, channels), their lengths, and 1 / (length + ε)."""
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(values * values, 1))
    scale = 1 / (length + EPSILON)
    return values * scale[:, None], length, scale


@triton.jit
def sums(
    x, target, weight, partial, n, c, span, x_b, x_c, x_n, t_b, t_c, t_n,
    EPSILON: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sum of distances over a part of an image's positions."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, BC)
    known = channels < c
    factors = tl.load(weight + channels, mask=known, other=0.0).to(tl.float32)
    total = tl.zeros((BC,), tl.float32)
    last = tl.minimum(split * span + span, n)
    for start in range(split * span, last, BN):
        rows = start + tl.arange(0, BN)
        inside = (rows < last)[:, None] & known[None, :]
        own, _, _ = normalised(x, image * x_b + rows[:, None] * x_n + channels[None, :] * x_c, inside, EPSILON)
        other, _, _ = normalised(target, image * t_b + rows[:, None] * t_n + channels[None, :] * t_c, inside, EPSILON)
        difference = own - other
        total += tl.sum(difference * difference, 0)
    tl.store(partial + image * tl.num_programs(1) + split, tl.sum(total * factors, 0))


@triton.jit
def gradients(
    gradient, x, target, weight, to_x, n, c, x_b, x_c, x_n, t_b, t_c, t_n, g_b, g_c, g_n,
    EPSILON: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients at a few positions; the part along the features themselves changes their length alone."""
    image = tl.program_id(0).to(tl.int64)
    rows, channels = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BC)
    known = channels < c
    inside = (rows < n)[:, None] & known[None, :]
    own, length, scale = normalised(x, image * x_b + rows[:, None] * x_n + channels[None, :] * x_c, inside, EPSILON)
    other, _, _ = normalised(target, image * t_b + rows[:, None] * t_n + channels[None, :] * t_c, inside, EPSILON)
    factors = tl.load(weight + channels, mask=known, other=0.0).to(tl.float32)
    arrived = (own - other) * factors[None, :] * (tl.load(gradient + image).to(tl.float32) * 2 / n)
    along = tl.sum(arrived * own, 1) / (length * scale)
    result = tl.where((length > 0)[:, None], (arrived - own * along[:, None]) * scale[:, None], 0.0)
    place = to_x + image * g_b + rows[:, None] * g_n + channels[None, :] * g_c
    tl.store(place, result.to(to_x.dtype.element_ty), mask=inside)
