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


def forked_norm_act(x: Tensor, norm: nn.GroupNorm, silu: bool = True) -> tuple[Tensor, Tensor]:
    """Result of ``norm_act``, and x for a residual connection.

    The fused operation's backward pass adds the gradients of both, which otherwise takes a pass of its own.
    """
    if _is_fused(x, norm):
        return _Forked.apply(x, None, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return norm_act(x, norm, silu), x


def conv_norm_act(x: Tensor, conv: nn.Conv2d, norm: nn.GroupNorm) -> Tensor:
    """``silu(norm(conv(x)))``. The fused operation adds the convolution's bias, and its gradient needs no pass."""
    if conv.bias is None or not _is_fused(x, norm):
        return norm_act(conv(x), norm)
    y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return fused(y, conv.bias, norm.weight, norm.bias, norm.num_groups, norm.eps, True)[0]


def _is_fused(x: Tensor, norm: nn.GroupNorm) -> bool:
    if is_exporting() or not norm.affine or x.ndim != 4 or not x.numel() or x.dtype not in FLOATS:
        return False
    return _everywhere or (x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and triton_runs())


@torch.library.custom_op("vistok::group_norm", mutates_args=())
def fused(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm of x + shift, and SiLU, with statistics in float32.

    Args:
        x: (b, c, h, w).
        shift: (c,), added to the channels; None for 0.
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

        return group_norm_triton.forward(x, shift, weight, bias, groups, eps, silu)
    b, c, h, w = x.shape
    y, mean, rstd = torch.native_group_norm(_shifted(x, shift), weight.float(), bias.float(), b, c, h * w, groups, eps)
    return _channels_last((F.silu(y) if silu else y).to(x.dtype)), mean, rstd


@torch.library.custom_op("vistok::group_norm_backward", mutates_args=())
def fused_backward(
    gradient: Tensor,
    added: Tensor | None,
    x: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to x, shift (empty without one), weight and bias.

    Args:
        gradient: Gradient of the result.
        added: Gradient at x from elsewhere, which is added; None for 0.
        x: Input of the forward pass.
        shift: The other input.
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

        to_x, *others = group_norm_triton.backward(gradient, added, x, shift, mean, rstd, weight, bias, groups, silu)
    else:
        to_x, *others = _plain_backward(gradient, added, x, shift, mean, rstd, weight, bias, groups, silu)
    to_shift = x.new_empty(0) if shift is None else others[0].to(shift.dtype)
    return to_x, to_shift, others[1].to(weight.dtype), others[2].to(bias.dtype)


def _plain_backward(
    gradient: Tensor,
    added: Tensor | None,
    x: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    wide, scale, arrived = _shifted(x, shift).contiguous(), weight.float(), gradient.float().contiguous()
    if silu:
        centre, deviation = (t.repeat_interleave(c // groups, 1)[:, :, None, None] for t in (mean, rstd))
        argument = (wide - centre) * deviation * scale[:, None, None] + bias.float()[:, None, None]
        arrived = torch.ops.aten.silu_backward(arrived, argument)
    to_x, to_weight, to_bias = torch.ops.aten.native_group_norm_backward(
        arrived, wide, mean, rstd, scale, b, c, h * w, groups, [True, True, True]
    )
    to_shift = to_x.sum((0, 2, 3))
    to_x = to_x if added is None else to_x + added.float()
    return _channels_last(to_x.to(x.dtype)), to_shift, to_weight, to_bias


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    return x.float() if shift is None else x.float() + shift.float()[:, None, None]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@fused.register_fake
def _(x, shift, weight, bias, groups, eps, silu):
    mean, rstd = (x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.channels_last), mean, rstd


@fused_backward.register_fake
def _(gradient, added, x, shift, mean, rstd, weight, bias, groups, silu):
    to_x = torch.empty_like(x, memory_format=torch.channels_last)
    to_shift = x.new_empty(0) if shift is None else torch.empty_like(shift)
    return to_x, to_shift, torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, shift, weight, bias, ctx.groups, ctx.eps, ctx.silu = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, shift, mean, rstd, weight, bias)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: Tensor | None, added: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients to the arguments of ``fused``, with ``added`` at x from elsewhere."""
    x, shift, mean, rstd, weight, bias = ctx.saved_tensors
    if gradient is None:
        to_x, others = added, (None, None, None)
    elif torch.is_grad_enabled():  # second derivatives are torch's own, of the plain form
        y = F.group_norm(_shifted(x, shift), ctx.groups, weight.float(), bias.float(), ctx.eps)
        y = (F.silu(y) if ctx.silu else y).to(x.dtype)
        wanted = [t for t in (x, shift, weight, bias) if t is not None]
        to_x, *others = torch.autograd.grad(y, wanted, gradient, create_graph=True)
        to_x = to_x if added is None else to_x + added
        others = [None, *others] if shift is None else others
    else:
        results = fused_backward(gradient, added, x, shift, mean, rstd, weight, bias, ctx.groups, ctx.silu)
        to_x, *others = results[0], None if shift is None else results[1], *results[2:]
    return to_x, *others, None, None, None


def _keep_of_fused(ctx: Any, inputs: tuple, output: tuple) -> None:
    _keep(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


fused.register_autograd(lambda ctx, gradient, *_: _gradients(ctx, gradient, None), setup_context=_keep_of_fused)


class _Forked(torch.autograd.Function):
    """Result of ``fused``, and its input."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, mean, rstd = fused(*arguments)
        _keep(ctx, arguments, (y, mean, rstd))
        return y, arguments[0].view_as(arguments[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, added: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, gradient, added)


@register_bytes(torch.ops.vistok.group_norm)
def _(x: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return sizes([x, x, *others, *out_val])


@register_bytes(torch.ops.vistok.group_norm_backward)
def _(gradient: Tensor, added: Tensor | None, x: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return sizes([gradient, x, gradient, x, added, *others, *out_val])
