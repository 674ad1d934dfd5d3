"""Smaller codebooks for a trained tokenizer: k-means clusters of its codewords (arXiv:2307.08265, section 3.1)."""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.kernels import nearest_code
from vistok.quantizers import Quantizer, Table
from vistok.tokenizer import Tokenizer

ITERATIONS = 300  # most iterations of k-means


def tables_of(head: Quantizer, purpose: str = "be reduced or stored in files") -> list[Tensor]:
    """Codewords (n, d) of each codebook of a head whose codes alone determine the latent.

    Args:
        head: A head after ``for_inference``.
        purpose: What other heads cannot do, for the message.

    Raises:
        ValueError: The head is neither a plain table nor several side by side.
    """
    tables = [head.table(i) for i in range(len(head.codebook_sizes))]
    plain = [table.values for table in tables if table is not None and torch.equal(table.search, table.values)]
    layout = head.layout(*head.example_grid)
    needs_more = head.context_fields or layout.granularities > 1 or len(layout.grids) > 1
    if needs_more or len(plain) < len(tables) or sum(table.shape[1] for table in plain) != head.dim:
        raise ValueError(
            f"a {type(head).__name__} cannot {purpose}: it is neither one codebook nor several "
            "side by side, whose codes alone give the latent"
        )
    return plain


def with_tables(head: Quantizer, tables: list[Tensor]) -> Quantizer:
    """Head with the codewords replaced: (n, d) for each codebook, n of any size."""
    for i, values in enumerate(tables):
        former = cast(Table, head.table(i))
        head = head.with_table(i, former._replace(search=values, values=values))
    return head.eval().requires_grad_(False)


def reduced(table: Tensor, size: int, weights: Tensor | None = None, seed: int = 0) -> Tensor:
    """k-means centroids of a codebook; of unit length if all codewords are, as in heads that compare by cosine.

    Args:
        table: Codewords (n, d).
        size: Number of centroids, from 2 to n - 1.
        weights: Weights (n,) of the codewords, such as their counts; None weights all equally, as in the paper.
        seed: Seed of the k-means++ initialisation.

    Returns:
        (size, d) float32.
    """
    n = len(table)
    if not 2 <= size < n:
        raise ValueError(f"size {size} must be from 2 to {n - 1}: the codebook has {n} codewords")
    table = table.float().cpu()
    unit = bool(((table.norm(dim=1) - 1).abs() < 1e-5).all())
    weights = torch.ones(n) if weights is None else weights.cpu().float().clamp(min=1e-6)
    centroids = start(table, size, weights, np.random.default_rng(seed))
    former = None
    for _ in range(ITERATIONS):
        nearest = nearest_code(table, centroids)
        if former is not None and torch.equal(nearest, former):
            break
        former = nearest
        centroids = means(table, nearest, weights, centroids)
        centroids = F.normalize(centroids) if unit else centroids
    return centroids


def start(table: Tensor, size: int, weights: Tensor, rng: np.random.Generator) -> Tensor:
    """k-means++: draws codewords with probability proportional to weight times squared distance to earlier ones."""
    vectors, weight = table.double().numpy(), weights.double().numpy()
    chosen = [int(rng.choice(len(vectors), p=weight / weight.sum()))]
    distance = np.square(vectors - vectors[chosen[0]]).sum(1)
    while len(chosen) < size:
        chance = weight * distance
        if chance.sum() <= 0:  # fewer different codewords than centroids
            chance = np.isin(np.arange(len(vectors)), chosen, invert=True).astype(float)
        chosen.append(int(rng.choice(len(vectors), p=chance / chance.sum())))
        distance = np.minimum(distance, np.square(vectors - vectors[chosen[-1]]).sum(1))
    return table[chosen].clone()


def means(table: Tensor, nearest: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Weighted means of clusters; each empty cluster gets one of the codewords with the largest errors."""
    total = torch.zeros(len(centroids), dtype=torch.float64).index_add_(0, nearest, weights.double())
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    sums.index_add_(0, nearest, table.double() * weights.double()[:, None])
    moved = (sums / total.clamp(min=1e-300)[:, None]).float()
    empty = (total == 0).nonzero().flatten()
    if len(empty):
        error = weights * (table - moved[nearest]).square().sum(1)
        moved[empty] = table[error.argsort(descending=True)[: len(empty)]]
    return moved


def with_head(tokenizer: Tokenizer, head) -> Tokenizer:
    """Tokenizer with the same networks and another head."""
    other = tokenizer.fold()
    other.quantizer = head
    return other.eval()
