"""Group norm with SiLU as one operation, and the choice of its implementation.

Under bfloat16 autocast torch computes group norms in float32, and SiLU after them: three tensors of four bytes for each
element are written, and two of them are kept for the backward pass. The fused operation reads and writes bfloat16,
and keeps its input and two numbers for each group.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.kernels.nearest import is_exporting
from vistok.kernels.passes import register_bytes, sizes
from vistok.speed import triton_runs

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_everywhere = False


@contextmanager
def fused_everywhere() -> Iterator[None]:
    """Takes the fused operation within the block on any device: for tests, and for counts of what a GPU would do."""
    global _everywhere
    before, _everywhere = _everywhere, True
    try:
        yield
    finally:
        _everywhere = before


def norm_act(x: Tensor, norm: nn.GroupNorm, silu: bool = True) -> Tensor:
    """``silu(norm(x))`` for x (b, c, h, w), or ``norm(x)``.

    On a GPU with Triton, and x channels last, it is the fused operation, whose result has the dtype of x. Everywhere
    else, and in exported graphs, it is torch's own composition.
    """
    if _is_fused(x, norm):
        return fused(x, None, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)[0]
    return F.silu(norm(x)) if silu else norm(x)


def _is_fused(x: Tensor, norm: nn.GroupNorm) -> bool:
    if is_exporting() or not norm.affine or x.ndim != 4 or not x.numel() or x.dtype not in FLOATS:
        return False
    return _everywhere or (x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and triton_runs())


@torch.library.custom_op("vistok::group_norm", mutates_args=())
def fused(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Group norm of ``x + residual``, and SiLU, with statistics in float32.

    Args:
        x: (b, c, h, w).
        residual: A tensor like x; None adds nothing.
        weight: (c,).
        bias: (c,).
        groups: Number of groups.
        eps: Added to variances.
        silu: True applies SiLU.

    Returns:
        The result, like x; the sum ``x + residual``, or an empty tensor without a residual; mean and 1 / deviation of
        each group, both (b, groups) in float32.
    """
    x, residual = _channels_last(x), None if residual is None else _channels_last(residual)
    if x.is_cuda:
        from vistok.kernels import group_norm_triton

        return group_norm_triton.forward(x, residual, weight, bias, groups, eps, silu)
    total = x if residual is None else x + residual
    b, c, h, w = x.shape
    y, mean, rstd = torch.native_group_norm(total.float(), weight.float(), bias.float(), b, c, h * w, groups, eps)
    y = F.silu(y) if silu else y
    return _channels_last(y.to(x.dtype)), x.new_empty(0) if residual is None else total, mean, rstd


@torch.library.custom_op("vistok::group_norm_backward", mutates_args=())
def fused_backward(
    gradient: Tensor,
    of_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x`` (which is also that to the residual), weight and bias.

    Args:
        gradient: Gradient of the result.
        of_total: Gradient of the sum ``x + residual``; None for 0.
        total: This sum.
        mean: Means of the groups.
        rstd: 1 / deviations of the groups.
        weight: (c,).
        bias: (c,).
        groups: Number of groups.
        silu: True if SiLU was applied.
    """
    gradient, total = _channels_last(gradient), _channels_last(total)
    of_total = None if of_total is None else _channels_last(of_total)
    if total.is_cuda:
        from vistok.kernels import group_norm_triton

        to_x, *others = group_norm_triton.backward(gradient, of_total, total, mean, rstd, weight, bias, groups, silu)
    else:
        to_x, *others = _plain_backward(gradient, of_total, total, mean, rstd, weight, bias, groups, silu)
    return to_x, others[0].to(weight.dtype), others[1].to(bias.dtype)


def _plain_backward(
    gradient: Tensor,
    of_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = total.shape
    wide, scale, arrived = total.float().contiguous(), weight.float(), gradient.float().contiguous()
    if silu:
        centre, deviation = (t.repeat_interleave(c // groups, 1)[:, :, None, None] for t in (mean, rstd))
        argument = (wide - centre) * deviation * scale[:, None, None] + bias.float()[:, None, None]
        arrived = torch.ops.aten.silu_backward(arrived, argument)
    to_x, to_weight, to_bias = torch.ops.aten.native_group_norm_backward(
        arrived, wide, mean, rstd, scale, b, c, h * w, groups, [True, True, True]
    )
    to_x = to_x if of_total is None else to_x + of_total.float()
    return _channels_last(to_x.to(total.dtype)), to_weight, to_bias


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@fused.register_fake
def _(x, residual, weight, bias, groups, eps, silu):
    y = torch.empty_like(x, memory_format=torch.channels_last)
    total = x.new_empty(0) if residual is None else torch.empty_like(y)
    return y, total, *(x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2))


@fused_backward.register_fake
def _(gradient, of_total, total, mean, rstd, weight, bias, groups, silu):
    to_x = torch.empty_like(total, memory_format=torch.channels_last)
    return to_x, torch.empty_like(weight), torch.empty_like(bias)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, residual, weight, bias, ctx.groups, ctx.eps, ctx.silu = inputs
    _, total, mean, rstd = output
    ctx.added = residual is not None
    ctx.save_for_backward(total if ctx.added else x, mean, rstd, weight, bias)
    ctx.mark_non_differentiable(mean, rstd, *(() if ctx.added else (total,)))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, of_total: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    total, mean, rstd, weight, bias = ctx.saved_tensors
    of_total = of_total if ctx.added else None
    if gradient is None:  # only the sum was used
        return of_total, of_total, None, None, None, None, None
    if torch.is_grad_enabled():  # second derivatives: torch's own, of the plain form
        wide = total.float()
        y = F.group_norm(wide, ctx.groups, weight.float(), bias.float(), ctx.eps)
        y = (F.silu(y) if ctx.silu else y).to(total.dtype)
        to_x, *others = torch.autograd.grad(y, (total, weight, bias), gradient, create_graph=True)
        to_x = to_x if of_total is None else to_x + of_total
    else:
        to_x, *others = fused_backward(gradient, of_total, total, mean, rstd, weight, bias, ctx.groups, ctx.silu)
    return to_x, to_x if ctx.added else None, *others, None, None, None


fused.register_autograd(_backward, setup_context=_setup)


@register_bytes(torch.ops.vistok.group_norm)
def _(x: Tensor, residual: Tensor | None, *others, out_val: tuple[Tensor, ...]) -> int:
    """The sum is written, and read for the result; without a residual x is read twice."""
    return sizes([x, x if residual is None else residual, *others, *out_val, out_val[1]])


@register_bytes(torch.ops.vistok.group_norm_backward)
def _(gradient: Tensor, of_total: Tensor | None, total: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return sizes([gradient, total, gradient, total, of_total, *others, *out_val])
