"""Features of all images, of which a block at a time is in memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FeatureRows(NamedTuple):
    """Features of n images of all ranks, in an order that is the same on all of them."""

    count: int
    read: Callable[[Sequence[int]], Tensor]  # places of images to features (len(places), d) float32
    device: torch.device | str = "cpu"

    def at(self, places: Sequence[int]) -> Tensor:
        """Features (len(places), d) on the device."""
        return self.read(places).to(self.device)

    def blocks(self, size: int, first: int = 0, step: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of up to ``size`` images: every ``step``-th from the ``first``, with its place among all images."""
        for start in range(first * size, self.count, step * size):
            end = min(start + size, self.count)
            yield slice(start, end), self.at(range(start, end))
