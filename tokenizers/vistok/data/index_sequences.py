"""Indices of images that are held out, and all others without an array of them."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class IndicesWithout(Sequence[int]):
    """Indices from 0 without some, in order.

    Args:
        length: Number of all indices.
        without: The indices that are excluded, unique, in any order.
    """

    def __init__(self, length: int, without: Sequence[int]):
        self.length, self.without = length, sorted(without)
        self._before = [index - i for i, index in enumerate(self.without)]  # number of indices that stay before each

    def __len__(self) -> int:
        return self.length - len(self.without)

    @overload
    def __getitem__(self, i: int) -> int: ...

    @overload
    def __getitem__(self, i: slice) -> list[int]: ...

    def __getitem__(self, i: int | slice) -> int | list[int]:
        place = range(len(self))[i]
        if isinstance(place, range):
            return [self[j] for j in place]
        return place + bisect_right(self._before, place)

    def __iter__(self) -> Iterator[int]:
        excluded = set(self.without)
        return (i for i in range(self.length) if i not in excluded)


def drawn(length: int, count: int, seed: int) -> list[int]:
    """The first ``count`` indices of a permutation of ``length``, sorted; the order of a seed is always the same."""
    order = np.arange(length, dtype=np.int32 if length < 2**31 else np.int64)  # of half the memory of permutation()
    np.random.default_rng(seed).shuffle(order)
    return np.sort(order[:count]).tolist()
