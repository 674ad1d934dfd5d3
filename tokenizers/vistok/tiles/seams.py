"""Seams between tiles: a linear transition, and the difference of the two tiles there."""

from typing import NamedTuple

import torch
from torch import Tensor

GREY = 127.5  # grey levels in 1


class Seams(NamedTuple):
    """Differences between neighbouring tiles in pixels that both have and that are not close to their edges.

    Attributes:
        mean: Mean absolute difference in grey levels of 256; 0 if no pixels were compared.
        largest: Largest difference in grey levels.
        pixels: Number of values that were compared.
    """

    mean: float
    largest: float
    pixels: int


class SeamDifferences:
    """Sum, maximum and number of the differences at all seams so far."""

    def __init__(self):
        self.total, self.largest, self.pixels = 0.0, 0.0, 0

    def add(self, one: Tensor, other: Tensor) -> None:
        """Adds the pixels of a seam as its two tiles have them, in [-1, 1], clamped."""
        difference = (one.clamp(-1, 1) - other.clamp(-1, 1)).abs()
        self.total += float(difference.sum(dtype=torch.float64))
        self.largest = max(self.largest, float(difference.max()))
        self.pixels += difference.numel()

    def result(self) -> Seams:
        return Seams(GREY * self.total / max(self.pixels, 1), GREY * self.largest, self.pixels)


def paste(canvas: Tensor, part: Tensor, axis: int, start: int, seam: tuple[int, int], found: SeamDifferences) -> None:
    """Writes a tile to a canvas, with a linear transition from what is there.

    Args:
        canvas: (b, c, H, W), written to from the beginning of the seam.
        part: The tile; all but ``axis`` is that of the canvas.
        axis: 2 for tiles below each other, 3 for tiles side by side.
        start: Place of the tile's beginning on the axis.
        seam: Beginning and end of the transition; equal for none.
        found: Gets the differences at the seam.
    """
    first, last = seam
    if first < last:
        old, new = canvas.narrow(axis, first, last - first), part.narrow(axis, first - start, last - first)
        found.add(old, new)
        weight = (torch.arange(last - first, device=part.device) + 0.5) / (last - first)
        old.lerp_(new, weight if axis == 3 else weight[:, None])
    rest = start + part.shape[axis] - last
    canvas.narrow(axis, last, rest).copy_(part.narrow(axis, last - start, rest))
