"""Soft assignments to codewords, summed without storing them: the entropy loss of large codebooks needs them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vistok.kernels.passes import register_bytes, scores_size, sizes

LEAST, MOST = 2**20, 2**24  # smallest and largest size of all buffers, in pairs of floats
WIDE = 128  # dimensions whose products take longest: a slice of few vectors would wait for the codebook
PARTS = 40  # number of slices of two buffers between these bounds, which are a twentieth of n × k


def soft_assignment(
    z: Tensor, codebook: Tensor, weight: Tensor, scale: float, products: bool = False
) -> tuple[Tensor, Tensor]:
    """Entropies and sum of the assignments ``p = softmax(scale · (z·c - |c|²/2))``, or of ``softmax(scale · z·c)``.

    They are computed for a few vectors at a time, and again in the backward pass, so that no n × k matrix is stored.
    All three tensors get first-order gradients.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d).
        weight: Weights of the vectors, (n,).
        scale: 2 / T for ``softmax(-|z - c|² / T)``, where the |z|² of each vector cancels.
        products: True leaves out the |c|²/2, for heads that compare by inner products.

    Returns:
        The entropy of each vector's assignment (n,), and the weighted sum of assignments (k,).
    """
    entropies, sums, *_ = assign(z, codebook, weight, scale, products)
    return entropies, sums


@torch.library.custom_op("vistok::soft_assignment", mutates_args=())
def assign(
    z: Tensor, codebook: Tensor, weight: Tensor, scale: float, products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results of ``soft_assignment``, then each softmax's largest score and logarithm of its sum, both (n,)."""
    entropies, sums, tops, logs = (
        z.new_empty(len(z)),
        z.new_zeros(len(codebook)),
        z.new_empty(len(z)),
        z.new_empty(len(z)),
    )
    for own, s, p in scores(z, codebook, scale, products):
        torch.amax(s, 1, out=tops[own])
        entropies[own], logs[own] = add_assigned(s.sub_(tops[own, None]), p, weight[own], sums)
    return entropies, sums, tops, logs


def add_assigned(s: Tensor, p: Tensor, weight: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Adds the assignments of weighted vectors (m,) to the sums (k,).

    Args:
        s: Scores (m, k), 0 for the largest of each vector.
        p: Buffer of the same size.

    Returns:
        The entropies and the logarithms of the softmax's sums, both (m,).
    """
    torch.exp(s, out=p)
    total = p.sum(1)
    sums.addmv_(p.T, weight / total)
    return total.log() - dot(p, s) / total, total.log()


@assign.register_fake
def _(
    z: Tensor, codebook: Tensor, weight: Tensor, scale: float, products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return z.new_empty(len(z)), z.new_empty(len(codebook)), z.new_empty(len(z)), z.new_empty(len(z))


@torch.library.custom_op("vistok::soft_assignment_backward", mutates_args=())
def assign_backward(
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    scale: float,
    products: bool,
    entropies: Tensor,
    tops: Tensor,
    logs: Tensor,
    of_entropies: Tensor,
    of_sums: Tensor,
    to_codebook: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to vectors, codebook (empty unless ``to_codebook``) and weights, from those of the results."""
    to_z, to_weight = torch.empty_like(z), torch.empty_like(weight)
    to_c = torch.zeros_like(codebook) if to_codebook else z.new_empty(0)
    row_sums = z.new_zeros(len(codebook))
    for own, s, p in scores(z, codebook, scale, products):
        s.sub_(tops[own, None]).sub_(logs[own, None])
        to_weight[own] = to_scores(s, p, weight[own], entropies[own], of_entropies[own], of_sums)
        torch.mm(s, codebook, out=to_z[own])
        if to_codebook:
            to_c.addmm_(s.T, z[own])
            row_sums += s.sum(0)
    if to_codebook:
        to_c = (to_c if products else to_c.addcmul_(row_sums[:, None], codebook, value=-1)).mul_(scale)
    return to_z.mul_(scale), to_c, to_weight


def to_scores(s: Tensor, p: Tensor, weight: Tensor, entropies: Tensor, of_entropies: Tensor, of_sums: Tensor) -> Tensor:
    """Puts the gradients of scores in the place of ``s``, the logarithms of the assignments (m, k); p is a buffer.

    With g the gradient of the sums, h that of an entropy H, and w a weight, the gradient of a score is ``p · (w · (g -
    p·g) - h · (log p + H))``.

    Returns:
        The gradients of the weights (m,).
    """
    torch.exp(s, out=p)
    mean = torch.mv(p, of_sums)
    moved = (of_entropies * entropies + weight * mean)[:, None]
    s.mul_(-of_entropies[:, None]).addr_(weight, of_sums).sub_(moved).mul_(p)
    return mean


@assign_backward.register_fake
def _(z, codebook, weight, scale, products, entropies, tops, logs, of_entropies, of_sums, to_codebook):
    return torch.empty_like(z), torch.empty_like(codebook) if to_codebook else z.new_empty(0), torch.empty_like(weight)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.scale, ctx.products = inputs
    entropies, _, *normalizers = output
    ctx.save_for_backward(*tensors, entropies, *normalizers)
    ctx.mark_non_differentiable(*normalizers)


def _backward(ctx, of_entropies: Tensor, of_sums: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    z, codebook, weight, *results = ctx.saved_tensors
    to_codebook = ctx.needs_input_grad[1]
    to_z, to_c, to_weight = assign_backward(
        z, codebook, weight, ctx.scale, ctx.products, *results, of_entropies, of_sums, to_codebook
    )
    return to_z, to_c if to_codebook else None, to_weight, None, None


assign.register_autograd(_backward, setup_context=_setup)


def scores(
    z: Tensor, codebook: Tensor, scale: float = 1.0, products: bool = False, buffers: int = 1, wide: int = WIDE
) -> Iterator[tuple[Any, ...]]:
    """Slices of vectors with their scores and buffers of the same size, all reused in each step."""
    n, k = len(z), len(codebook)
    least = LEAST * max(1, z.shape[1] // wide)
    rows = max(1, 2 * max(least // k, min(MOST // k, n // PARTS)) // (1 + buffers))
    matrices = z.new_empty(1 + buffers, min(rows, n), k)
    bias = z.new_zeros(k) if products else codebook.square().sum(1).mul_(-0.5)
    for start in range(0, n, rows):
        own = slice(start, min(start + rows, n))
        s, *others = matrices[:, : own.stop - start]
        yield own, torch.addmm(bias, z[own], codebook.T, beta=scale, alpha=scale, out=s), *others


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (m,) of the rows of two matrices (m, k). ``(a * b).sum(1)`` would allocate a matrix."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]


@register_flop_formula(torch.ops.vistok.soft_assignment)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * codebook_shape[0] * (z_shape[1] + 1)


@register_flop_formula(torch.ops.vistok.soft_assignment_backward)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * codebook_shape[0] * 3 * z_shape[1]


@register_bytes(torch.ops.vistok.soft_assignment)
def _(z: Tensor, codebook: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    return 10 * scores_size(z, codebook) + sizes([z, codebook, *others, *out_val])


@register_bytes(torch.ops.vistok.soft_assignment_backward)
def _(z: Tensor, codebook: Tensor, *others, out_val: tuple[Tensor, ...]) -> int:
    passes = 20 if others[-1] else 18  # with and without the gradient of the codebook
    return passes * scores_size(z, codebook) + sizes([z, codebook, *others, *out_val])
