"""Token factorization: a code of many bits as several codes of fewer bits (Open-MAGVIT2, arXiv:2409.04410).

A generator then has small vocabularies, such as 2⁶ and 2¹² for codes of 18 bits. As in the authors' code the first part
has the lowest bits, and the first bit of each part is its lowest.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def split_codes(codes: Tensor, bits: Sequence[int]) -> Tensor:
    """Codes (b, k, *positions) int64 to those of their parts, (b, k·m, *positions): m parts, of ``bits`` bits each."""
    parts = [codes >> shift & 2**own - 1 for shift, own in zip(_shifts(bits), bits, strict=True)]
    return torch.stack(parts, dim=2).flatten(1, 2)


def join_codes(codes: Tensor, bits: Sequence[int]) -> Tensor:
    """Parts (b, k·m, *positions) to the codes (b, k, *positions) int64: the inverse of ``split_codes``."""
    parts = codes.long().unflatten(1, (-1, len(bits))).unbind(2)
    return torch.stack([part << shift for part, shift in zip(parts, _shifts(bits), strict=True)]).sum(0)


def split_sizes(codebook_sizes: Sequence[int], bits: Sequence[int]) -> tuple[int, ...]:
    """Number of values of each part of the codes of k codebooks: k·m numbers.

    Raises:
        ValueError: There are fewer than two parts, or a codebook has another number of bits.
    """
    asked = "split-bits " + " ".join(map(str, bits))
    if len(bits) < 2 or min(bits) < 1:
        raise ValueError(f"{asked} must be at least two numbers, each at least 1")
    for size in codebook_sizes:
        if size != 2 ** sum(bits):
            raise ValueError(
                f"{asked} are {sum(bits)} bits, but a codebook has {size:,} codewords, not {2 ** sum(bits):,}"
            )
    return tuple(2**own for own in bits) * len(codebook_sizes)


def _shifts(bits: Sequence[int]) -> list[int]:
    """Number of bits below each part."""
    return [0, *accumulate(bits)][:-1]
