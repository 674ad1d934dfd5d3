"""Pixel ranges: [-1, 1] inside the framework, 8 bits on disk, whatever a network was trained on inside it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelMap:
    """From images in [-1, 1] to the pixels a network was trained on, and back: ``pixels = scale * images + shift``.

    ``PixelMap(0.5, 0.5)`` is for networks that work in [0, 1].
    """

    scale: float = 1.0
    shift: float = 0.0

    def into(self, images: Tensor) -> Tensor:
        return images if self == PixelMap() else images * self.scale + self.shift

    def out(self, pixels: Tensor) -> Tensor:
        return pixels if self == PixelMap() else (pixels - self.shift) / self.scale


def to_float(images: Tensor) -> Tensor:
    """(b, 3, H, W) uint8 to [-1, 1]: 0 is -1 and 255 is 1."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to the nearest of 256 levels, clamped; the inverse of u / 127.5 - 1 for all of them."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)
