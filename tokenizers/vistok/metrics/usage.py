"""How much of each codebook is used, counted exactly over everything seen."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUsage(Metric):
    """Counts every codeword's choices, over all updates and ranks.

    ``compute`` returns float64 scalars: ``usage`` (the share of codewords chosen at least once), ``perplexity`` (exp
    of the entropy of code frequencies) and ``tokens`` (positions counted, the same in every codebook). With several
    codebooks the first two are ``usage_0``, ``perplexity_0``, ``usage_1`` and so on. With nothing seen all are 0.

    Args:
        codebook_sizes: Codewords in each of the k codebooks.
    """

    full_state_update = False
    hits: Tensor  # (k, largest size) int64: a float32 count would stop growing at 2²⁴

    def __init__(self, codebook_sizes: Sequence[int]):
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        hits = torch.zeros(len(self.codebook_sizes), max(self.codebook_sizes), dtype=torch.int64)
        self.add_state("hits", hits, dist_reduce_fx="sum")

    @property
    def counts(self) -> tuple[Tensor, ...]:
        """How often each codeword was chosen: k tensors (n,) int64, of this rank only outside of ``sync_context``."""
        return tuple(hits[:size] for hits, size in zip(self.hits, self.codebook_sizes, strict=True))

    def update(self, codes: Tensor, keep: Tensor | None = None) -> None:
        """Count codes (b, k, *positions) int64, where ``keep`` (b, *positions) bool is given only those it keeps."""
        if codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(f"codes of {codes.shape[1]} codebooks, but there are {len(self.codebook_sizes)}")
        for hits, own in zip(self.hits, codes.unbind(1), strict=True):
            added = hits.new_ones(1).expand(own.numel()) if keep is None else keep.flatten().to(hits.dtype)
            hits.index_add_(0, own.flatten(), added)  # bincount would wait for the GPU

    def compute(self) -> dict[str, Tensor]:
        values = {}
        for i, counts in enumerate(self.counts):
            suffix = f"_{i}" if len(self.codebook_sizes) > 1 else ""
            total = counts.sum()
            frequencies = counts.double() / total.clamp(min=1)
            values[f"usage{suffix}"] = (counts > 0).double().mean()
            values[f"perplexity{suffix}"] = torch.special.entr(frequencies).sum().exp() * (total > 0)
        return values | {"tokens": total.double()}
