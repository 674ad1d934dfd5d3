"""Nearest-codeword search as one operation, and the choice of its implementation."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vistok.kernels import nearest_cpu
from vistok.kernels.passes import register_bytes, size
from vistok.speed import triton_runs

SCORES_AT_ONCE = 2**22  # floats of scratch memory of the plain search: 16 MiB
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has only the latter


@torch.no_grad()
def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """Nearest codeword in L2 of each vector, computed in float32 for any input dtype.

    The largest ``z·c - |c|²/2`` is the smallest distance. ``|z|²`` is omitted, and the codebook's mean is subtracted
    from both, because the squares that cancel in ``|z|² - 2z·c + |c|²`` swamp the differences between codewords: for z
    of unit variance and VQGAN's initial codebook that form misses the nearest codeword of 2.5 % of vectors. Codewords
    whose scores float32 cannot distinguish are compared by their distances in float64.

    No n × k matrix is allocated: scratch memory is bounded, except for 1 / 512 of such a matrix. ``torch.compile`` sees
    one operation, ``vistok::nearest_code``; an exported graph, which must not depend on n, has one product and one
    argmax.

    Args:
        z: Vectors (n, d); n may be 0.
        codebook: Codewords (k, d), at least one, on the same device.

    Returns:
        Codes (n,) int64; the first of equally near codewords. A vector that is not finite gets code 0. A codeword with
        a NaN is the nearest of all, as in ``torch.argmin``, so that the loss becomes NaN too.

    Raises:
        ValueError: The shapes do not fit.
    """
    if z.ndim != 2 or codebook.ndim != 2 or z.shape[1] != codebook.shape[1]:
        raise ValueError(f"z {tuple(z.shape)} and codebook {tuple(codebook.shape)} must be (n, d) and (k, d)")
    if not codebook.numel():
        raise ValueError(f"codebook {tuple(codebook.shape)} is empty")
    if is_exporting():
        return plain_search(z, codebook, parts=False)
    return search(z.detach(), codebook.detach())


@torch.no_grad()
def largest_product(z: Tensor, codebook: Tensor, bias: Tensor | None = None) -> Tensor:
    """Codeword with the largest ``z·c + bias`` for each vector: the search of ``nearest_code`` with one more channel.

    With ``√(M - |c|² - 2 bias)`` as the further channel of a codeword, and 0 as that of a vector, the nearest codeword
    has the largest product, for any M that is large enough. The channel is float64, so that it decides no near tie.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d).
        bias: Number that is added to the products with each codeword, (k,); None for 0.

    Returns:
        Codes (n,) int64; the first of equal scores.
    """
    if is_exporting():
        scores = z.float() @ codebook.float().T
        return (scores if bias is None else scores + bias.float()).argmax(1)
    wide = codebook.detach().double()
    room = wide.square().sum(1) + (0 if bias is None else 2 * bias.detach().double())
    further = (room.max() - room).sqrt()
    return nearest_code(F.pad(z.detach().double(), (0, 1)), torch.cat([wide, further[:, None]], dim=1))


@torch.library.custom_op("vistok::nearest_code", mutates_args=())
def search(z: Tensor, codebook: Tensor) -> Tensor:
    """Implementation of ``nearest_code`` as one operation of torch."""
    if not len(z):
        return torch.empty(0, dtype=torch.int64, device=z.device)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        if z.device.type == "cpu":
            return nearest_cpu.search(z, codebook)
        if z.is_cuda and triton_runs():
            from vistok.kernels import nearest_triton

            return nearest_triton.search(z, codebook)
        return plain_search(z, codebook)


@search.register_fake
def _(z: Tensor, codebook: Tensor) -> Tensor:
    return z.new_empty(len(z), dtype=torch.int64)


@register_flop_formula(torch.ops.vistok.nearest_code)
def _(z_shape: tuple[int, int], codebook_shape: tuple[int, int], *_, **__) -> int:
    return 2 * z_shape[0] * z_shape[1] * codebook_shape[0]


@register_bytes(torch.ops.vistok.nearest_code)
def _(z: Tensor, codebook: Tensor, out_val: Tensor) -> int:
    """Of the kernels for GPUs: bounds, tiles and distances; the codebook also for its mean and its norms."""
    return 3 * size(z) + 4 * size(codebook) + size(out_val)


def plain_search(z: Tensor, codebook: Tensor, parts: bool = True) -> Tensor:
    """Plain form of the search: ``argmax`` over all scores, with near ties left to rounding.

    It serves exports, and devices without a kernel.

    Args:
        z: Vectors (n, d).
        codebook: Codewords (k, d).
        parts: True processes a few vectors at a time; False allocates the n × k matrix.
    """
    with torch.autocast(z.device.type, enabled=False):
        codebook = codebook.float()
        mean = codebook.mean(0)
        codebook, z = codebook - mean, z.float() - mean
        bias = codebook.square().sum(1).mul_(-0.5)
        if not parts:
            return torch.addmm(bias, z, codebook.T).argmax(1)
        rows = max(1, SCORES_AT_ONCE // len(codebook))
        return torch.cat([torch.addmm(bias, part, codebook.T).argmax(1) for part in z.split(rows)])
