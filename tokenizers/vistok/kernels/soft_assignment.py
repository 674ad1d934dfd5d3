"""Soft assignments to codewords, summed without storing them: the entropy loss of large codebooks needs them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

LEAST, MOST = 2**20, 2**24  # smallest and largest size of each of the two buffers, in floats
PARTS = 40  # number of slices between these bounds, with buffers of a twentieth of n × k


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
        torch.exp(s.sub_(tops[own, None]), out=p)
        total = p.sum(1)
        logs[own] = total.log()
        entropies[own] = total.log() - dot(p, s) / total
        sums.addmv_(p.T, weight[own] / total)
    return entropies, sums, tops, logs


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
    """Gradients to vectors, codebook (empty unless ``to_codebook``) and weights, from those of the first two outputs.

    With g the gradient of the sums, h that of an entropy H, and w a weight, the gradient of a score is ``p · (w · (g -
    p·g) - h · (log p + H))``.
    """
    to_z, to_weight = torch.empty_like(z), torch.empty_like(weight)
    to_c = torch.zeros_like(codebook) if to_codebook else z.new_empty(0)
    row_sums = z.new_zeros(len(codebook))
    for own, s, p in scores(z, codebook, scale, products):
        torch.exp(s.sub_(tops[own, None]).sub_(logs[own, None]), out=p)
        to_weight[own] = mean = torch.mv(p, of_sums)
        w, h = weight[own], of_entropies[own]
        s.mul_(-h[:, None]).addr_(w, of_sums).sub_((h * entropies[own] + w * mean)[:, None]).mul_(p)
        torch.mm(s, codebook, out=to_z[own])
        if to_codebook:
            to_c.addmm_(s.T, z[own])
            row_sums += s.sum(0)
    if to_codebook:
        to_c = (to_c if products else to_c.addcmul_(row_sums[:, None], codebook, value=-1)).mul_(scale)
    return to_z.mul_(scale), to_c, to_weight


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
    z: Tensor, codebook: Tensor, scale: float = 1.0, products: bool = False
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of vectors with their scores and a buffer of the same size, both reused in each step."""
    n, k = len(z), len(codebook)
    rows = max(1, LEAST // k, min(MOST // k, n // PARTS))
    buffers = z.new_empty(2, min(rows, n), k)
    bias = z.new_zeros(k) if products else codebook.square().sum(1).mul_(-0.5)
    for start in range(0, n, rows):
        own = slice(start, min(start + rows, n))
        s, p = buffers[:, : own.stop - start]
        yield own, torch.addmm(bias, z[own], codebook.T, beta=scale, alpha=scale, out=s), p


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (m,) of the rows of two matrices (m, k). ``(a * b).sum(1)`` would allocate a matrix."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]


@register_flop_formula(torch.ops.vistok.soft_assignment)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * codebook_shape[0] * (z_shape[1] + 1)


@register_flop_formula(torch.ops.vistok.soft_assignment_backward)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * codebook_shape[0] * 3 * z_shape[1]
