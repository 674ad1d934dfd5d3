"""Index backpropagation: the codeword of the largest inner product, with gradients to all codewords (IBQ).

The plain form is ``(one_hot(argmax s) + softmax(s) - softmax(s).detach()) @ codebook`` with the scores ``s = z·c``
(arXiv:2412.02692). With p the softmax and g the gradient that arrives, the gradient of a score is
``p · (g·c - Σ p (g·c))``, and g itself goes to the chosen codeword. Scores are computed for a few vectors at a time,
and again in the backward pass, so that no n × k matrix is stored.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vistok.kernels.soft_assignment import dot, scores

BLOCK = 512  # codewords whose products are searched at once: argmax over all is ten times slower than amax on a CPU


def propagated(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Codewords with the largest inner products, and their codes.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d), of the same dtype.

    Returns:
        Codewords (n, d), with first-order gradients to ``z`` and to all rows of ``codebook``; codes (n,) int64, the
        first of equal products.
    """
    values, codes, *_ = choose(z, codebook)
    return values, codes


@torch.library.custom_op("vistok::index_backpropagation", mutates_args=())
def choose(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results of ``propagated``, then each softmax's largest score and logarithm of its sum, both (n,)."""
    codes = torch.empty(len(z), dtype=torch.int64, device=z.device)
    tops, logs = z.new_empty(2, len(z))
    for own, s, p in scores(z, codebook, products=True):
        tops[own], codes[own] = largest(s)
        torch.exp(s.sub_(tops[own, None]), out=p)
        logs[own] = p.sum(1).log()
    return codebook[codes], codes, tops, logs.clone()


def largest(s: Tensor) -> tuple[Tensor, Tensor]:
    """Largest score of each row (n, k) and its first index."""
    k = s.shape[1]
    if k <= BLOCK or not s.is_cpu:
        return s.max(1)
    full = k // BLOCK * BLOCK
    blocks = s[:, :full].unflatten(1, (-1, BLOCK)).amax(2)
    if full < k:
        blocks = torch.cat([blocks, s[:, full:].amax(1, keepdim=True)], dim=1)
    tops, block = blocks.max(1)
    start = (block * BLOCK).clamp(max=k - BLOCK)
    members = start[:, None] + torch.arange(BLOCK, device=s.device)
    return tops, start + s.gather(1, members).argmax(1)


@choose.register_fake
def _(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = z.new_empty(len(z))
    return torch.empty_like(z), rows.long(), rows, torch.empty_like(rows)


@torch.library.custom_op("vistok::index_backpropagation_backward", mutates_args=())
def choose_backward(
    z: Tensor, codebook: Tensor, codes: Tensor, tops: Tensor, logs: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to vectors and codebook."""
    to_z, to_c = torch.empty_like(z), torch.zeros_like(codebook)
    for own, p, products in scores(z, codebook, products=True):
        torch.exp(p.sub_(tops[own, None]).sub_(logs[own, None]), out=p)
        torch.mm(gradient[own], codebook.T, out=products)
        products.sub_(dot(p, products)[:, None]).mul_(p)
        torch.mm(products, codebook, out=to_z[own])
        to_c.addmm_(products.T, z[own])
    return to_z, to_c.index_add_(0, codes, gradient)


@choose_backward.register_fake
def _(z: Tensor, codebook: Tensor, codes: Tensor, tops: Tensor, logs: Tensor, gradient: Tensor):
    return torch.empty_like(z), torch.empty_like(codebook)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    _, codes, tops, logs = output
    ctx.save_for_backward(*inputs, codes, tops, logs)
    ctx.mark_non_differentiable(codes, tops, logs)


def _backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return choose_backward(*ctx.saved_tensors, gradient.contiguous())


choose.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.vistok.index_backpropagation)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * z_shape[1] * codebook_shape[0]


@register_flop_formula(torch.ops.vistok.index_backpropagation_backward)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 4 * 2 * z_shape[0] * z_shape[1] * codebook_shape[0]
