"""Statistics of codes in a batch: counts, samples of latents, and the entropy of soft assignments."""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from vistok.distributed.collectives import broadcast_from_rank_zero, mean_with_gradient, rank_and_size, sum_over_ranks
from vistok.kernels import soft_assignment

LARGE = 2**25  # bytes
GOLDEN = 0.6180339887498949


def count(codes: Tensor, codebook_size: int, weight: Tensor | None = None) -> Tensor:
    """Number of times that each codeword was chosen, or the sum of its positions' weights: (n,) float32.

    Unlike ``torch.bincount`` it never waits for a GPU.
    """
    codes = codes.flatten()
    ones = torch.ones(1, device=codes.device).expand(len(codes))
    added = ones if weight is None else weight.flatten().float()
    return torch.zeros(codebook_size, device=codes.device).index_add_(0, codes, added)


def sample(vectors: Tensor, number: int) -> Tensor:
    """Draws random vectors from the batch of all ranks without replacement.

    Rank 0 draws for all ranks. On each rank the rows of other ranks' vectors are zero, so that the sum over ranks
    equals a draw of one process from the whole batch. If the batch has too few vectors, all are repeated, and a little
    noise makes the copies differ (RQ-VAE's code, arXiv:2203.01941: uniform in [0, 0.01 / √d]).

    Args:
        vectors: This rank's vectors (m, d); every rank has the same number.
        number: Number of vectors to draw.

    Returns:
        (number, d), to be summed over ranks: see ``gathered``.
    """
    rank, size = rank_and_size()
    m, dim = vectors.shape
    copies = -(-number // (m * size))
    chosen = broadcast_from_rank_zero(torch.randperm(copies * m * size, device=vectors.device)[:number])
    own = chosen % (m * size) - rank * m
    drawn = vectors[own.clamp(0, m - 1)]
    if copies > 1:
        drawn = drawn + torch.rand(copies * m * size, dim, device=vectors.device)[chosen] * (0.01 * dim**-0.5)
    return torch.where(((own >= 0) & (own < m))[:, None], drawn, 0.0)


def gathered(samples: Tensor, rows: Tensor) -> Tensor:
    """Sums over ranks of those rows of ``sample``'s result that are needed; other rows are undefined.

    Only these are sent if the host may read ``rows`` without waiting for a GPU, or if all would be more than 32 MiB.

    Args:
        samples: Samples of this rank (n, d).
        rows: Rows that are needed, (n,) bool, equal on all ranks.
    """
    if rank_and_size()[1] == 1:
        return samples
    if samples.is_cuda and samples.nbytes <= LARGE:
        return sum_over_ranks(samples)
    (needed,) = rows.nonzero(as_tuple=True)
    return samples.index_copy(0, needed, sum_over_ranks(samples[needed])) if len(needed) else samples


def is_sample(name: str) -> bool:
    """True for a statistic that is drawn: an update uses its last batch's, and the head gathers it from all ranks.

    Sub-heads prefix the name.
    """
    return name.rpartition(".")[2] == "samples"


@torch.no_grad()
def merged(calls: Sequence[tuple[Mapping[str, Tensor], int]]) -> dict[str, Tensor]:
    """Statistics of several calls of a head as those of one: sums, and of samples a share of each call's.

    Args:
        calls: The statistics of each call, and its number of vectors, to which its share is proportional. Which samples
            are taken does not depend on the rank, so that they can be summed over ranks.
    """
    total = dict(calls[0][0]) if calls else {}
    before, everything = 0, sum(number for _, number in calls)
    for stats, number in calls:
        for name, value in stats.items() if before else ():
            if is_sample(name):  # multiples of the golden ratio modulo 1 are spread evenly over [0, 1)
                place = torch.arange(len(value), device=value.device, dtype=torch.float64) * GOLDEN % 1 * everything
                own = (place >= before) & (place < before + number)
                total[name] = torch.where(own[:, None], value, total[name])
            else:
                total[name] = total[name] + value
        before += number
    return total


def entropy(
    z: Tensor, codebook: Tensor, temperature: float, weight: Tensor | None = None, products: bool = False
) -> Tensor:
    """Mean entropy of soft assignments minus the entropy of their mean.

    It is low if choices are certain and usage is uniform. Assignments are ``softmax(-|z - c|² / temperature)``
    (MaskGIT's VQGAN; LlamaGen arXiv:2406.06525, code).

    Args:
        z: Latent (b, d, h, w).
        codebook: Codewords (n, d).
        temperature: Divisor of the negative squared distances.
        weight: (b, h, w) weights of positions in both means; None weights all equally.
        products: True for assignments ``softmax(z·c / temperature)``, as in IBQ (arXiv:2412.02692, code).
    """
    vectors = rearrange(z, "b d h w -> (b h w) d")
    weight = vectors.new_ones(len(vectors)) if weight is None else weight.flatten().to(vectors)
    return entropy_of(
        *soft_assignment(vectors, codebook, weight, (1 if products else 2) / temperature, products), weight
    )


def entropy_of(entropies: Tensor, sums: Tensor, weight: Tensor) -> Tensor:
    """``entropy`` from the entropies of assignments (m,), their weighted sum (n,) and the weights (m,)."""
    if rank_and_size()[1] == 1:
        total, mean = weight.sum(), sums
    else:
        total, mean = mean_with_gradient(torch.cat([weight.sum()[None], sums])).split([1, len(sums)])
    mean = mean / total
    return (entropies * weight).sum() / total.squeeze() + (mean * (mean + 1e-5).log()).sum()
