"""Codewords of the heads that a codec stores: tables side by side or summed, or computed from the codes."""

import torch
from torch import Tensor

from vistok.quantizers import Quantizer, Table

LARGEST = 2**18  # codewords of a codebook that are ever enumerated and counted


def codewords_of(head: Quantizer) -> list[Tensor]:
    """Codewords (n, d) of each codebook of a head whose codes alone determine the latent, position by position.

    Those of a residual head are its depths. Computed codewords (FSQ, binary codes) are enumerated, with code 0 in the
    other codebooks.

    Args:
        head: A head after ``for_inference``.

    Raises:
        ValueError: The head is of another kind, or has too many codewords.
    """
    layout = head.layout(*head.example_grid)
    reason = None
    if head.context_fields or layout.granularities > 1:
        reason = "its codes alone do not give the latent"
    elif len(layout.grids) > 1 or head.fixed_grid or head.grid_multiple > 1:
        reason = "its codes are not one grid of any size"
    tables = [head.table(i) for i in range(len(head.codebook_sizes))]
    if any(table is not None and not torch.equal(table.search, table.values) for table in tables):
        reason = "it searches other codewords than those that it returns"
    largest = max((n for n, table in zip(head.codebook_sizes, tables, strict=True) if table is None), default=0)
    if largest > LARGEST:
        reason = f"a codebook of {largest:,} computed codewords is too large to count; at most {LARGEST:,} are"
    if reason:
        raise ValueError(f"a {type(head).__name__} cannot be reduced or stored in files: {reason}")
    return [computed(head, i) if table is None else table.values for i, table in enumerate(tables)]


def computed(head: Quantizer, i: int) -> Tensor:
    """Latents (n, d) of all codes of the i-th codebook, with code 0 in the others."""
    codes = torch.zeros(head.codebook_sizes[i], len(head.codebook_sizes), 1, 1, dtype=torch.int64)
    codes[:, i, 0, 0] = torch.arange(len(codes))
    return head.lookup(codes)[:, :, 0, 0]


def with_codewords(head: Quantizer, codewords: list[Tensor]) -> Quantizer:
    """Head with these codewords, (n, d) for each codebook, n of any size where the head has a table.

    Raises:
        ValueError: Computed codewords are other ones, or a table cannot be replaced exactly.
    """
    name = type(head).__name__
    for i, values in enumerate(codewords):
        former = head.table(i)
        if former is not None:
            head = head.with_table(i, Table(values, former.metric, values, former.bias))
        if not torch.equal(codewords_of(head)[i], values):
            reason = "it computes other codewords" if former is None else "rounding changes a table that has a factor"
            raise ValueError(f"a {name} cannot be stored with the codewords of codebook {i}: {reason}")
    return head.eval().requires_grad_(False)
