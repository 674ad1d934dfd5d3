"""Weighted squared distance of feature maps that are normalised over channels, as in LPIPS, in one operation.

Written with torch's operations it makes about ten tensors of the size of the features, under bfloat16 autocast in
float32, and keeps several of them for the backward pass. The operation makes none, and keeps only its inputs: each
pass reads the features once, and the backward pass writes one gradient.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vistok.kernels.passes import register_bytes, sizes
from vistok.speed import triton_runs

EPSILON = 1e-10  # added to lengths, as in LPIPS
PART = 2**18  # elements that are processed at once


def normalised_distances(maps: Iterable[Tensor], targets: Iterable[Tensor], weights: Iterable[Tensor]) -> Tensor:
    """Sum over the layers of a network of ``normalised_distance``, (b,); gradients reach ``maps`` alone."""
    pairs = zip(maps, targets, weights, strict=True)
    return torch.stack([normalised_distance(x, target, weight.flatten()) for x, target, weight in pairs]).sum(0)


@torch.library.custom_op("vistok::normalised_distance", mutates_args=())
def normalised_distance(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``mean_p Σ_c weight_c · (x_cp / (|x_p| + ε) - target_cp / (|target_p| + ε))²`` of each image, (b,) in float32.

    Gradients reach x alone. Where all channels of x are 0 they are 0 (of torch's own composition they are NaN).

    Args:
        x: Features (b, c, h, w) in any floating-point type; all arithmetic is in float32, of float64 in float64.
        target: Features like x.
        weight: (c,).
    """
    if _has_kernels(x):
        from vistok.kernels import feature_distance_triton

        return feature_distance_triton.forward(x, target, weight, EPSILON)
    sums = torch.zeros(len(x), dtype=_wide(x), device=x.device)
    for images, place in _parts(x):
        sums[images] += _differences(x, target, place)[0].square_().sum(2) @ weight.to(sums.dtype)
    return sums / x[0, 0].numel() if len(x) else sums


@torch.library.custom_op("vistok::normalised_distance_backward", mutates_args=())
def backward(gradient: Tensor, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Gradient to x, like x; ``gradient`` is that to the distances, (b,)."""
    if _has_kernels(x):
        from vistok.kernels import feature_distance_triton

        return feature_distance_triton.backward(gradient, x, target, weight, EPSILON)
    to_x = torch.empty_like(x.flatten(2))
    factors = gradient.to(_wide(x))[:, None] * weight.to(_wide(x))  # (b, c)
    for images, place in _parts(x):
        difference, wide, length, scale = _differences(x, target, place)
        difference *= (2 / x[0, 0].numel() * factors[images])[:, :, None]
        shrunk = torch.where(length > 0, (difference * wide).sum(1, keepdim=True) * scale.square() / length, 0.0)
        result = torch.where(length > 0, difference.mul_(scale), 0.0).addcmul_(wide, shrunk, value=-1)
        to_x[place] = result
    return to_x.unflatten(2, x.shape[2:])


def _has_kernels(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and x.numel() > 0 and triton_runs()


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _parts(x: Tensor) -> Iterator[tuple[slice, tuple[slice, slice, slice]]]:
    """Slices of images, and with them of channels and positions; temporary tensors of a part stay in the cache."""
    b, c, h, w = x.shape
    images, positions = max(1, PART // max(1, c * h * w)), max(1, PART // max(1, c))
    for i in range(0, b, images):
        for j in range(0, h * w, positions):
            yield slice(i, i + images), (slice(i, i + images), slice(None), slice(j, j + positions))


def _differences(x: Tensor, target: Tensor, place: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differences (b, c, n) of normalised features, the features x, their lengths and 1 / (length + ε), (b, 1, n)."""
    wide, other = (features.flatten(2)[place].to(_wide(x)) for features in (x, target))
    length, other_length = (features.square().sum(1, keepdim=True).sqrt() for features in (wide, other))
    scale = 1 / (length + EPSILON)
    difference = (wide * scale).sub_(other * (1 / (other_length + EPSILON)))  # without FMA: equal features give 0
    return difference, wide, length, scale


@normalised_distance.register_fake
def _(x, target, weight):
    return x.new_empty(len(x), dtype=_wide(x))


@backward.register_fake
def _(gradient, x, target, weight):
    return torch.empty_like(x.flatten(2)).unflatten(2, x.shape[2:])


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return backward(gradient, *ctx.saved_tensors), None, None


normalised_distance.register_autograd(_backward, setup_context=_setup)


@register_bytes(torch.ops.vistok.normalised_distance)
@register_bytes(torch.ops.vistok.normalised_distance_backward)
def _(*tensors: Tensor, out_val: Tensor) -> int:
    """Every tensor once."""
    return sizes([*tensors, out_val])
