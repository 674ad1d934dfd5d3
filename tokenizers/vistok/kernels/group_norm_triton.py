"""Group norm with SiLU on a GPU: channels-last activations in their own dtype, all arithmetic in float32 (Triton).

The forward pass reads its input twice: ``moments`` and ``merge`` compute mean and deviation of each group, and
``normalise`` the result. The backward pass reads input and gradient twice: ``channel_sums`` and ``group_sums``, then
``gradients``. Normalised values and the argument of SiLU are computed again, not stored. No sum depends on the order of
programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of a tile; half as many where two tensors are read
PROGRAMS = 4  # for each processor, over which the positions of all images are spread


def forward(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Results of ``group_norm.fused``; x (b, c, h, w) is channels last, b · h · w > 0."""
    b, c, h, w = x.shape
    n = h * w
    y, mean = torch.empty_like(x), torch.empty(2, b, groups, device=x.device)
    block, rows, splits, span = _tiles(x, ELEMENTS)
    partial = torch.empty(2, b, splits, c, device=x.device)
    moments[(b, splits)](x, partial, n, c, span, b * splits * c, BN=rows, BC=block)
    width = c // groups
    small = {"BS": triton.next_power_of_2(splits), "BG": triton.next_power_of_2(width)}
    shifted = {"SHIFTED": shift is not None}
    shift = bias if shift is None else shift
    merge[(b, groups)](
        partial, shift, mean, n, c, span, splits, width, b * splits * c, b * groups, eps, **shifted, **small
    )
    normalise[(b, triton.cdiv(n, rows))](
        x, shift, mean, weight, bias, y, n, c, width, groups, b * groups, SILU=silu, BN=rows, BC=block, **shifted
    )
    return y, mean[0], mean[1]


def backward(
    gradient: Tensor, added: Tensor | None, x: Tensor, shift: Tensor | None, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, groups: int, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Results of ``group_norm.fused_backward``; all of (b, c, h, w) are channels last."""
    b, c, h, w = x.shape
    n, width = h * w, c // groups
    to_x = torch.empty_like(x)
    block, rows, splits, span = _tiles(x, ELEMENTS // 2)
    partial = torch.empty(3, b, splits, c, device=x.device)
    per_image, per_group = torch.empty(3, b, c, device=x.device), torch.empty(2, b, groups, device=x.device)
    tile = {"SHIFTED": shift is not None, "SILU": silu, "BN": rows, "BC": block}
    places = (gradient, x, bias if shift is None else shift, mean, rstd, weight, bias)
    shape = (n, c, width, groups)
    channel_sums[(b, splits)](*places, partial, *shape, span, b * splits * c, **tile)
    small = {"BS": triton.next_power_of_2(splits), "BG": triton.next_power_of_2(width)}
    group_sums[(b, groups)](
        partial, weight, rstd, per_image, per_group, n, c, splits, width, b * splits * c, b * c, b * groups, **small
    )
    other = gradient if added is None else added
    gradients[(b, triton.cdiv(n, rows))](
        *places, per_group, other, to_x, *shape, b * groups, ADDED=added is not None, **tile
    )
    to_bias, to_weight, to_shift = per_image.sum(1)
    return to_x, to_shift, to_weight, to_bias


def _tiles(x: Tensor, elements: int) -> tuple[int, int, int, int]:
    """Channels and rows (positions) of a tile, the number of parts of an image, and the rows of a part."""
    b, c, h, w = x.shape
    block = triton.next_power_of_2(c)
    rows = max(1, elements // block)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2
    splits = max(1, min(PROGRAMS * processors // b, triton.cdiv(h * w, rows)))
    span = triton.cdiv(triton.cdiv(h * w, splits), rows) * rows
    return block, rows, triton.cdiv(h * w, span), span


@triton.jit
def moments(x, partial, n, c, span, size, BN: tl.constexpr, BC: tl.constexpr):
    """Mean and sum of squared deviations of each channel over a part of an image."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, BC)
    first, last = split * span, tl.minimum(split * span + span, n)
    known = channels < c
    # Sums of differences from the first position: sums of the values themselves would lose digits for a large mean.
    origin = tl.load(x + image * n * c + first * c + channels, mask=known, other=0.0).to(tl.float32)
    sums = tl.zeros((BN, BC), tl.float32)
    squares = tl.zeros((BN, BC), tl.float32)
    for start in range(first, last, BN):
        rows = start + tl.arange(0, BN)
        inside = (rows < last)[:, None] & known[None, :]
        offsets = image * n * c + rows[:, None] * c + channels[None, :]
        values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        differences = tl.where(inside, values - origin[None, :], 0.0)
        sums += differences
        squares += differences * differences
    count = (last - first).to(tl.float32)
    of_channel = tl.sum(sums, 0)
    place = (image * tl.num_programs(1) + split) * c + channels
    tl.store(partial + place, origin + of_channel / count, mask=known)
    deviations = tl.maximum(tl.sum(squares, 0) - of_channel * of_channel / count, 0.0)
    tl.store(partial + size + place, deviations, mask=known)


@triton.jit(do_not_specialize=["n"])  # 1 would become a constant, which is no tensor
def merge(
    partial, shift, mean, n, c, span, splits, width, size, statistics, eps,
    SHIFTED: tl.constexpr, BS: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of a group from those of its channels in all parts."""
    image, group = tl.program_id(0), tl.program_id(1)
    parts, channels = tl.arange(0, BS), tl.arange(0, BG)
    inside = (parts < splits)[:, None] & (channels < width)[None, :]
    place = (image * splits + parts[:, None]) * c + group * width + channels[None, :]
    means = tl.load(partial + place, mask=inside, other=0.0)
    if SHIFTED:
        own = group * width + channels
        means += tl.load(shift + own, mask=channels < width, other=0.0).to(tl.float32)[None, :]
    squares = tl.load(partial + size + place, mask=inside, other=0.0)
    counts = tl.where(inside, tl.minimum(n - parts * span, span)[:, None], 0).to(tl.float32)
    number = n.to(tl.float32) * width
    middle = tl.sum(tl.sum(tl.where(inside, means, 0.0), 1), 0) / (splits * width)
    of_group = middle + tl.sum(tl.sum(tl.where(inside, means - middle, 0.0) * counts, 1), 0) / number
    deviations = tl.where(inside, means - of_group, 0.0)
    variance = tl.sum(tl.sum(squares + counts * deviations * deviations, 1), 0) / number
    place = image * tl.num_programs(1) + group
    tl.store(mean + place, of_group)
    tl.store(mean + statistics + place, 1 / tl.sqrt(variance + eps))


@triton.jit
def normalise(
    x, shift, mean, weight, bias, y, n, c, width, groups, statistics,
    SHIFTED: tl.constexpr, SILU: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Result of a few positions."""
    image = tl.program_id(0).to(tl.int64)
    rows, channels = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BC)
    known = channels < c
    inside = (rows < n)[:, None] & known[None, :]
    offsets = image * n * c + rows[:, None] * c + channels[None, :]
    place = image * groups + channels // width
    centre = tl.load(mean + place, mask=known, other=0.0)
    if SHIFTED:
        centre -= tl.load(shift + channels, mask=known, other=0.0).to(tl.float32)
    scale = tl.load(mean + statistics + place, mask=known, other=0.0)
    scale *= tl.load(weight + channels, mask=known, other=0.0).to(tl.float32)
    offset = tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    result = (values - centre[None, :]) * scale[None, :] + offset[None, :]
    if SILU:
        result = result * tl.sigmoid(result)
    tl.store(y + offsets, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def affine_gradient(gradient, normalised, scale, offset, SILU: tl.constexpr):
    """Gradient at the argument of SiLU, which is computed again."""
    if SILU:
        argument = normalised * scale[None, :] + offset[None, :]
        gate = tl.sigmoid(argument)
        gradient = gradient * gate * (1 + argument * (1 - gate))
    return gradient


@triton.jit
def channel_sums(
    gradient, x, shift, mean, rstd, weight, bias, partial, n, c, width, groups, span, size,
    SHIFTED: tl.constexpr, SILU: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums of a channel's gradients, of their products with the normalised values, and of these, over a part."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, BC)
    known = channels < c
    centre = tl.load(mean + image * groups + channels // width, mask=known, other=0.0)
    if SHIFTED:
        centre -= tl.load(shift + channels, mask=known, other=0.0).to(tl.float32)
    deviation = tl.load(rstd + image * groups + channels // width, mask=known, other=0.0)
    scale = tl.load(weight + channels, mask=known, other=0.0).to(tl.float32)
    offset = tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    sums = tl.zeros((BN, BC), tl.float32)
    products = tl.zeros((BN, BC), tl.float32)
    plain = tl.zeros((BN, BC), tl.float32)
    last = tl.minimum(split * span + span, n)
    for start in range(split * span, last, BN):
        rows = start + tl.arange(0, BN)
        inside = (rows < last)[:, None] & known[None, :]
        offsets = image * n * c + rows[:, None] * c + channels[None, :]
        values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        normalised = (values - centre[None, :]) * deviation[None, :]
        arrived = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)  # 0 outside
        arrived = affine_gradient(arrived, normalised, scale, offset, SILU)
        sums += arrived
        products += arrived * normalised
        if SHIFTED:
            plain += tl.where(inside, normalised, 0.0)
    place = (image * tl.num_programs(1) + split) * c + channels
    tl.store(partial + place, tl.sum(sums, 0), mask=known)
    tl.store(partial + size + place, tl.sum(products, 0), mask=known)
    tl.store(partial + 2 * size + place, tl.sum(plain, 0), mask=known)


@triton.jit(do_not_specialize=["n"])  # 1 would become a constant, which is no tensor
def group_sums(
    partial, weight, rstd, per_image, per_group, n, c, splits, width, size, image_size, statistics,
    BS: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """First two sums of a group's channels in an image, their weighted means over the group, and gradients of shifts.

    The gradient of a shift is the sum of the input's gradients over all positions.
    """
    image, group = tl.program_id(0), tl.program_id(1)
    parts, channels = tl.arange(0, BS), tl.arange(0, BG)
    inside = (parts < splits)[:, None] & (channels < width)[None, :]
    parted = (image * splits + parts[:, None]) * c + group * width + channels[None, :]
    sums = tl.sum(tl.load(partial + parted, mask=inside, other=0.0), 0)
    products = tl.sum(tl.load(partial + size + parted, mask=inside, other=0.0), 0)
    own = group * width + channels
    tl.store(per_image + image * c + own, sums, mask=channels < width)
    tl.store(per_image + image_size + image * c + own, products, mask=channels < width)
    scale = tl.load(weight + own, mask=channels < width, other=0.0).to(tl.float32)
    number = n.to(tl.float32) * width
    place = image * tl.num_programs(1) + group
    of_sums, of_products = tl.sum(sums * scale, 0) / number, tl.sum(products * scale, 0) / number
    tl.store(per_group + place, of_sums)
    tl.store(per_group + statistics + place, of_products)
    plain = tl.sum(tl.load(partial + 2 * size + parted, mask=inside, other=0.0), 0)
    of_shift = (sums * scale - of_sums * n - of_products * plain) * tl.load(rstd + place)
    tl.store(per_image + 2 * image_size + image * c + own, of_shift, mask=channels < width)


@triton.jit
def gradients(
    gradient, x, shift, mean, rstd, weight, bias, per_group, added, to_x, n, c, width, groups, statistics,
    ADDED: tl.constexpr, SHIFTED: tl.constexpr, SILU: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input at a few positions; ``added`` is added to it."""
    image = tl.program_id(0).to(tl.int64)
    rows, channels = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BC)
    known = channels < c
    inside = (rows < n)[:, None] & known[None, :]
    offsets = image * n * c + rows[:, None] * c + channels[None, :]
    place = image * groups + channels // width
    centre = tl.load(mean + place, mask=known, other=0.0)
    if SHIFTED:
        centre -= tl.load(shift + channels, mask=known, other=0.0).to(tl.float32)
    deviation = tl.load(rstd + place, mask=known, other=0.0)
    of_sums = tl.load(per_group + place, mask=known, other=0.0)
    of_products = tl.load(per_group + statistics + place, mask=known, other=0.0)
    scale = tl.load(weight + channels, mask=known, other=0.0).to(tl.float32)
    offset = tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    normalised = (values - centre[None, :]) * deviation[None, :]
    arrived = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
    arrived = affine_gradient(arrived, normalised, scale, offset, SILU) * scale[None, :]
    result = (arrived - of_sums[None, :] - normalised * of_products[None, :]) * deviation[None, :]
    if ADDED:
        result += tl.load(added + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_x + offsets, result.to(to_x.dtype.element_ty), mask=inside)
