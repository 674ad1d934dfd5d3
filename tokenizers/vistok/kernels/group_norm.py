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
        return fused(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)[0]
    return F.silu(norm(x)) if silu else norm(x)


def forked_norm_act(x: Tensor, norm: nn.GroupNorm, silu: bool = True) -> tuple[Tensor, Tensor]:
    """Result of ``norm_act``, and x for a residual connection.

    The fused operation's backward pass adds the gradients of both, which otherwise takes a pass of its own.
    """
    if _is_fused(x, norm):
        return _Forked.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return norm_act(x, norm, silu), x


def _is_fused(x: Tensor, norm: nn.GroupNorm) -> bool:
    if is_exporting() or not norm.affine or x.ndim != 4 or not x.numel() or x.dtype not in FLOATS:
        return False
    return _everywhere or (x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and triton_runs())


@torch.library.custom_op("vistok::group_norm", mutates_args=())
def fused(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm of x (b, c, h, w), and SiLU, with statistics in float32.

    Args:
        x: (b, c, h, w).
        weight: (c,).
        bias: (c,).
        groups: Number of groups.
        eps: Added to variances.
        silu: True applies SiLU.

    Returns:
        The result, like x and channels last; mean and 1 / deviation of each group, both (b, groups) in float32.
    """
    x = _channels_last(x)
    if x.is_cuda:
        from vistok.kernels import group_norm_triton

        return group_norm_triton.forward(x, weight, bias, groups, eps, silu)
    b, c, h, w = x.shape
    y, mean, rstd = torch.native_group_norm(x.float(), weight.float(), bias.float(), b, c, h * w, groups, eps)
    return _channels_last((F.silu(y) if silu else y).to(x.dtype)), mean, rstd


@torch.library.custom_op("vistok::group_norm_backward", mutates_args=())
def fused_backward(
    gradient: Tensor,
    added: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x``, weight and bias.

    Args:
        gradient: Gradient of the result.
        added: Gradient at x from elsewhere, which is added; None for 0.
        x: Input of the forward pass.
        mean: Means of the groups.
        rstd: 1 / deviations of the groups.
        weight: (c,).
        bias: (c,).
        groups: Number of groups.
        silu: True if SiLU was applied.
    """
    gradient, x = _channels_last(gradient), _channels_last(x)
    added = None if added is None else _channels_last(added)
    if x.is_cuda:
        from vistok.kernels import group_norm_triton

        to_x, *others = group_norm_triton.backward(gradient, added, x, mean, rstd, weight, bias, groups, silu)
    else:
        to_x, *others = _plain_backward(gradient, added, x, mean, rstd, weight, bias, groups, silu)
    return to_x, others[0].to(weight.dtype), others[1].to(bias.dtype)


def _plain_backward(
    gradient: Tensor,
    added: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    wide, scale, arrived = x.float().contiguous(), weight.float(), gradient.float().contiguous()
    if silu:
        centre, deviation = (t.repeat_interleave(c // groups, 1)[:, :, None, None] for t in (mean, rstd))
        argument = (wide - centre) * deviation * scale[:, None, None] + bias.float()[:, None, None]
        arrived = torch.ops.aten.silu_backward(arrived, argument)
    to_x, to_weight, to_bias = torch.ops.aten.native_group_norm_backward(
        arrived, wide, mean, rstd, scale, b, c, h * w, groups, [True, True, True]
    )
    to_x = to_x if added is None else to_x + added.float()
    return _channels_last(to_x.to(x.dtype)), to_weight, to_bias


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@fused.register_fake
def _(x, weight, bias, groups, eps, silu):
    mean, rstd = (x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.channels_last), mean, rstd


@fused_backward.register_fake
def _(gradient, added, x, mean, rstd, weight, bias, groups, silu):
    to_x = torch.empty_like(x, memory_format=torch.channels_last)
    return to_x, torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, ctx.groups, ctx.eps, ctx.silu = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: Tensor | None, added: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients to the arguments of ``fused``, with ``added`` at x from elsewhere."""
    x, mean, rstd, weight, bias = ctx.saved_tensors
    if gradient is None:
        to_x, others = added, (None, None)
    elif torch.is_grad_enabled():  # second derivatives are torch's own, of the plain form
        y = F.group_norm(x.float(), ctx.groups, weight.float(), bias.float(), ctx.eps)
        y = (F.silu(y) if ctx.silu else y).to(x.dtype)
        to_x, *others = torch.autograd.grad(y, (x, weight, bias), gradient, create_graph=True)
        to_x = to_x if added is None else to_x + added
    else:
        to_x, *others = fused_backward(gradient, added, x, mean, rstd, weight, bias, ctx.groups, ctx.silu)
    return to_x, *others, None, None, None


fused.register_autograd(lambda ctx, gradient, *_: _gradients(ctx, gradient, None), setup_context=_keep)


class _Forked(torch.autograd.Function):
    """Result of ``fused``, and its input."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, mean, rstd = fused(*arguments)
        x, weight, bias, ctx.groups, ctx.eps, ctx.silu = arguments
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, added: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, gradient, added)


@register_bytes(torch.ops.vistok.group_norm)
def _(x: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return sizes([x, x, *others, *out_val])


@register_bytes(torch.ops.vistok.group_norm_backward)
def _(gradient: Tensor, added: Tensor | None, x: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return sizes([gradient, x, gradient, x, added, *others, *out_val])
