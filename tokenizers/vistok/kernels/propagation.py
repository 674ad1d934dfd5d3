"""Index backpropagation: the codeword of the largest inner product, with gradients to all codewords (IBQ).

The plain form is ``(one_hot(argmax s) + softmax(s) - softmax(s).detach()) @ codebook`` with the scores ``s = z·c``
(arXiv:2412.02692). With p the softmax and g the gradient that arrives, the gradient of a score is
``p · (g·c - Σ p (g·c))``, and g itself goes to the chosen codeword. Scores are computed for a few vectors at a time,
and again in the backward pass, so that no n × k matrix is stored. The entropy loss reads the same scores, so that
both together take five products with the codebook instead of nine.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vistok.kernels.passes import register_bytes, scores_size, sizes
from vistok.kernels.soft_assignment import add_assigned, dot, scores, to_scores

WIDE = 64  # as in soft_assignment: with larger slices five products are as fast as the dense form's six
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
    values, codes, *_ = choose(z, codebook, None, 0.0)
    return values, codes


def propagated_and_assigned(
    z: Tensor, codebook: Tensor, weight: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results of ``propagated`` and of ``soft_assignment`` with inner products, from the same scores.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d), of the same dtype.
        weight: Weights (n,) of the vectors.
        scale: 1 / T for assignments ``softmax(z·c / T)``.

    Returns:
        Codewords (n, d), codes (n,), the entropies of the assignments (n,) and their weighted sum (k,).
    """
    values, codes, entropies, sums, *_ = choose(z, codebook, weight, scale)
    return values, codes, entropies, sums


@torch.library.custom_op("vistok::index_backpropagation", mutates_args=())
def choose(
    z: Tensor, codebook: Tensor, weight: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Results of ``propagated_and_assigned``, the last two zero without a weight, and what the backward pass reads.

    These are the largest scores (n,), and the logarithms of the sums of both softmaxes (2, n).
    """
    codes = torch.empty(len(z), dtype=torch.int64, device=z.device)
    tops, entropies, logs = z.new_empty(len(z)), z.new_zeros(len(z)), z.new_zeros(2, len(z))
    sums = z.new_zeros(len(codebook))
    for own, s, p in scores(z, codebook, products=True, wide=WIDE):
        tops[own], codes[own] = largest(s)
        torch.exp(s.sub_(tops[own, None]), out=p)
        logs[0, own] = p.sum(1).log()
        if weight is not None:
            entropies[own], logs[1, own] = add_assigned(s.mul_(scale), p, weight[own], sums)
    return codebook[codes], codes, entropies, sums, tops, logs


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
def _(z: Tensor, codebook: Tensor, weight: Tensor | None, scale: float):
    rows = z.new_empty(len(z))
    return torch.empty_like(z), rows.long(), rows, z.new_empty(len(codebook)), rows.clone(), z.new_empty(2, len(z))


@torch.library.custom_op("vistok::index_backpropagation_backward", mutates_args=())
def choose_backward(
    z: Tensor,
    codebook: Tensor,
    weight: Tensor | None,
    scale: float,
    codes: Tensor,
    entropies: Tensor,
    tops: Tensor,
    logs: Tensor,
    of_values: Tensor,
    of_entropies: Tensor,
    of_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to vectors, codebook and weights."""
    to_z, to_c, to_weight = torch.empty_like(z), torch.zeros_like(codebook), torch.zeros_like(entropies)
    for own, s, p, gradient in scores(z, codebook, products=True, buffers=2, wide=WIDE):
        torch.exp(s.sub_(tops[own, None]), out=p)  # the softmax but for a factor, which the few numbers of a row get
        factor = logs[0, own].neg().exp()
        torch.mm(of_values[own] * factor[:, None], codebook.T, out=gradient)
        gradient.sub_((dot(p, gradient) * factor)[:, None]).mul_(p)
        if weight is not None:
            s.mul_(scale).sub_(logs[1, own, None])
            to_weight[own] = to_scores(s, p, weight[own], entropies[own], of_entropies[own], of_sums)
            gradient.add_(s, alpha=scale)
        torch.mm(gradient, codebook, out=to_z[own])
        to_c.addmm_(gradient.T, z[own])
    return to_z, to_c.index_add_(0, codes, of_values), to_weight


@choose_backward.register_fake
def _(z, codebook, weight, scale, codes, entropies, tops, logs, of_values, of_entropies, of_sums):
    return torch.empty_like(z), torch.empty_like(codebook), torch.empty_like(entropies)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    z, codebook, weight, ctx.scale = inputs
    _, codes, entropies, _, tops, logs = output
    ctx.save_for_backward(z, codebook, weight, codes, entropies, tops, logs)
    ctx.mark_non_differentiable(codes, tops, logs)


def _backward(ctx, of_values: Tensor, _: None, of_entropies: Tensor, of_sums: Tensor, *__: None) -> tuple:
    z, codebook, weight, *results = ctx.saved_tensors
    gradients = (of_values.contiguous(), of_entropies, of_sums)
    to_z, to_c, to_weight = choose_backward(z, codebook, weight, ctx.scale, *results, *gradients)
    return to_z, to_c, None if weight is None else to_weight, None


choose.register_autograd(_backward, setup_context=_setup)


@register_flop_formula(torch.ops.vistok.index_backpropagation)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * z_shape[1] * codebook_shape[0]


@register_flop_formula(torch.ops.vistok.index_backpropagation_backward)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 4 * 2 * z_shape[0] * z_shape[1] * codebook_shape[0]


@register_bytes(torch.ops.vistok.index_backpropagation)
def _(z: Tensor, codebook: Tensor, weight: Tensor | None, scale: float, out_val: tuple[Tensor, ...]) -> int:
    passes = 7 if weight is None else 15
    return passes * scores_size(z, codebook) + sizes([z, codebook, *out_val])


@register_bytes(torch.ops.vistok.index_backpropagation_backward)
def _(z: Tensor, codebook: Tensor, weight: Tensor | None, *others, out_val: tuple[Tensor, ...]) -> int:
    passes = 15 if weight is None else 34
    return passes * scores_size(z, codebook) + sizes([z, codebook, *others, *out_val])
