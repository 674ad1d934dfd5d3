"""Exact counts of codeword choices, and the usage of codebooks computed from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects
from vistok.metrics.states import Accumulator, Reduction, Saved

LARGEST = 2**22  # largest codebook whose codewords are counted individually
GROUP_BITS = 18  # most bits in a group of bits of larger codes


class Part(NamedTuple):
    """A codebook, or a group of bits of the codes of a codebook with more than ``LARGEST`` codewords."""

    codebook: int
    shift: int  # bits below this part
    size: int  # number of different values
    name: str  # empty if there is only one part


def parts_of(codebook_sizes: Sequence[int], largest: int = LARGEST, group_bits: int = GROUP_BITS) -> tuple[Part, ...]:
    """Parts that are counted: codebooks of up to ``largest`` codewords, and groups of bits of the codes of larger ones.

    Groups have at most ``group_bits`` bits and sizes as equal as possible, lowest bits first: 36 bits are 18 and 18.
    """
    parts = []
    for i, size in enumerate(codebook_sizes):
        name = f"codebook {i}" if len(codebook_sizes) > 1 else ""
        if size <= largest:
            parts.append(Part(i, 0, size, name))
            continue
        bits = (size - 1).bit_length()
        groups = -(-bits // group_bits)
        edges = [bits * group // groups for group in range(groups + 1)]
        for low, high in zip(edges, edges[1:], strict=False):
            values = -(-min(size, 2**high) // 2**low)  # fewer in the highest group if size is no power of 2
            parts.append(Part(i, low, values, f"{name} bits {low} to {high - 1}".strip()))
    return tuple(parts)


def split(codes: Tensor, parts: Sequence[Part]) -> Tensor:
    """Codes (b, k, *positions) int64 of k codebooks to those of their parts (b, parts, *positions)."""
    if all(part.shift == 0 for part in parts) and len(parts) == codes.shape[1]:
        return codes
    return torch.stack([(codes[:, part.codebook] >> part.shift) % part.size for part in parts], dim=1)


class CodebookUsage(Accumulator):
    """Counts the choices of every codeword.

    ``compute`` returns float64 scalars: ``usage`` (the share of codewords chosen at least once), ``usage_ceiling`` (see
    ``ceiling``), ``perplexity`` (exp of the entropy of code frequencies), ``entropy_bits`` (that entropy in bits) and
    ``tokens`` (number of positions counted, the same in every codebook). With several codebooks the names except
    ``tokens`` are ``usage_0``, ``usage_ceiling_0`` and so on, then ``usage_1``. Before the first update all are 0.

    A codebook of more than 2²² codewords is counted like several codebooks, one for each group of at most 18 bits of
    its codes: see ``parts_of``. Their ``usage_0``, ``usage_1``, ... and the sum of their entropies are upper bounds of
    the values of the full codebook; ``DistinctTuples`` counts the full codes that were chosen.

    Args:
        codebook_sizes: Number of codewords in each of the k codebooks.

    Attributes:
        parts: The counted parts.
    """

    hits: Tensor  # (parts, largest size) int64: a float32 count would stop growing at 2²⁴

    def __init__(self, codebook_sizes: Sequence[int]):
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.parts = parts_of(self.codebook_sizes)
        hits = torch.zeros(len(self.parts), max(part.size for part in self.parts), dtype=torch.int64)
        self.declare("hits", hits, Reduction.SUM)

    @property
    def counts(self) -> tuple[Tensor, ...]:
        """Number of choices of each codeword, for each part: (n,) int64."""
        return tuple(hits[: part.size] for hits, part in zip(self.hits, self.parts, strict=True))

    def update(self, codes: Tensor, keep: Tensor | None = None) -> None:
        """Counts codes (b, k, *positions) int64; with ``keep`` (b, *positions) bool only those where it is True."""
        if codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(f"codes of {codes.shape[1]} codebooks, but there are {len(self.codebook_sizes)}")
        for hits, own in zip(self.hits, split(codes, self.parts).unbind(1), strict=True):
            added = hits.new_ones(1).expand(own.numel()) if keep is None else keep.flatten().to(hits.dtype)
            hits.index_add_(0, own.flatten(), added)  # bincount would wait for the GPU

    def compute(self) -> dict[str, Tensor]:
        """All metrics by name: float64 scalars."""
        return usages_of(self.counts)


class DistinctTuples(Accumulator):
    """Set of the distinct tuples of k codes that a product of codebooks produced; memory grows only with their number.

    Args:
        num_codebooks: Number k of codes in a tuple, each below 2³¹; larger codes are split into parts (``split``).
    """

    def __init__(self, num_codebooks: int):
        super().__init__()
        self.known = torch.empty(0, num_codebooks, dtype=torch.int32)
        self.pending: list[Tensor] = []

    def update(self, codes: Tensor, keep: Tensor | None = None) -> None:
        """Adds codes (b, k, *positions) int64; with ``keep`` (b, *positions) bool only those where it is True."""
        tuples = codes.flatten(2).transpose(1, 2).reshape(-1, codes.shape[1])
        tuples = tuples if keep is None else tuples[keep.flatten()]
        self.pending.append(tuples.int().unique(dim=0).cpu())
        if sum(map(len, self.pending)) > max(len(self.known), 2**16):  # sorting all of them at each batch would be slow
            self.tuples()

    def tuples(self) -> Tensor:
        """All distinct tuples, sorted: (m, k) int32."""
        if self.pending:
            self.known = torch.cat([self.known, *self.pending]).unique(dim=0)
            self.pending = []
        return self.known

    def gather(self) -> "DistinctTuples":
        self.pending = gather_objects(self.tuples())
        return self

    def save(self) -> Saved:
        return Saved({"tuples": self.tuples()}, {})

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.known, self.pending = tensors["tuples"], []


def usages_of(counts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Metrics of ``CodebookUsage`` for several parts, from the counts (n,) int64 of their codewords."""
    values = {}
    for i, own in enumerate(counts):
        suffix = f"_{i}" if len(counts) > 1 else ""
        values |= {f"{name}{suffix}": value for name, value in usage_of(own).items()}
    return values | {"tokens": counts[0].sum().double()}


def usage_of(counts: Tensor) -> dict[str, Tensor]:
    """Metrics of ``CodebookUsage`` for one codebook, from the counts (n,) of its codewords."""
    tokens, bits = counts.sum(), entropy_bits(counts)
    return {
        "usage": (counts > 0).double().mean(),
        "usage_ceiling": ceiling(tokens, len(counts)),
        "perplexity": bits.exp2() * (tokens > 0),
        "entropy_bits": bits,
    }


def ceiling(tokens: Tensor, codebook_size: int) -> Tensor:
    """Expected usage of T tokens that choose uniformly among K codewords, ``1 - exp(-T / K)``: a float64 scalar.

    Non-uniform choices reach fewer codewords, so usage should be read relative to this number.
    """
    return -torch.expm1(-tokens.double() / codebook_size)


def entropy_bits(counts: Tensor) -> Tensor:
    """Plug-in entropy of the frequencies of counts (n,), in bits: a float64 scalar, 0 for no counts."""
    return torch.special.entr(counts.double() / counts.sum().clamp(min=1)).sum() / math.log(2)
