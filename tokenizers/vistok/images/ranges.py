"""Pixel ranges: [-1, 1] inside the framework, 8 bits on disk, and the range of each network's training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelMap:
    """Maps images in [-1, 1] to the pixel range of a network, and back: ``pixels = scale * images + shift``.

    ``PixelMap(0.5, 0.5)`` is for networks with pixels in [0, 1]. For a network that normalises pixels in [0, 1] with a
    mean and a standard deviation for each channel, scale is 0.5 / std and shift is (0.5 - mean) / std.

    Attributes:
        scale: One number, or one for each channel; not 0.
        shift: One number, or one for each channel.
    """

    scale: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0

    def __post_init__(self):
        for name in ("scale", "shift"):
            if isinstance(value := getattr(self, name), Sequence):
                object.__setattr__(self, name, tuple(value))  # a list of YAML or JSON: equal and hashable
        if len(self._lengths()) > 1 or 0 in self._lengths():
            raise ValueError(
                f"scale={self.scale} and shift={self.shift} need one number for each channel, or one number"
            )
        if 0 in (self.scale if isinstance(self.scale, tuple) else (self.scale,)):
            raise ValueError(f"scale={self.scale} cannot be inverted: it must not be 0")

    def into(self, images: Tensor) -> Tensor:
        if self == PixelMap():
            return images
        self.channels(images.shape[-3])
        return images * _by_channel(self.scale, images) + _by_channel(self.shift, images)

    def out(self, pixels: Tensor) -> Tensor:
        if self == PixelMap():
            return pixels
        self.channels(pixels.shape[-3])
        return (pixels - _by_channel(self.shift, pixels)) / _by_channel(self.scale, pixels)

    def channels(self, outputs: int) -> int:
        """Number of channels of the images that a decoder's outputs are.

        Raises:
            ValueError: The map has numbers for another number of channels.
        """
        if self._lengths() - {outputs}:
            raise ValueError(f"{self} has numbers for {self._lengths().pop()} channels, not for {outputs}")
        return outputs

    def _lengths(self) -> set[int]:
        return {len(value) for value in (self.scale, self.shift) if isinstance(value, tuple)}


def _by_channel(value: float | Sequence[float], images: Tensor) -> Tensor | float:
    """A number, or the numbers of the channels as (c, 1, 1)."""
    return images.new_tensor(value).view(-1, 1, 1) if isinstance(value, Sequence) else value


EPSILON = 0.1  # DALL-E's and BSQ-ViT's


@dataclass(frozen=True)
class LogitLaplaceMap:
    """Pixels of a decoder that predicts the mean μ of their logits, and ln b (arXiv:2102.12092, appendix A.3).

    The encoder's input is ``y = (1 - 2ε) x + ε``, where x in [0, 1] is the image. The decoder's output (b, 2c, H, W) is
    first all μ, then all ln b, which only ``vistok.losses.LogitLaplace`` reads; the reconstruction is the pixel with
    logit μ.

    Attributes:
        epsilon: ε, above 0 and below 0.5.
    """

    epsilon: float = EPSILON

    def __post_init__(self):
        if not 0 < self.epsilon < 0.5:
            raise ValueError(f"epsilon must be above 0 and below 0.5, not {self.epsilon}")

    def into(self, images: Tensor) -> Tensor:
        return images * (0.5 - self.epsilon) + 0.5

    def out(self, output: Tensor) -> Tensor:
        """Images (b, c, H, W), within a factor of 1 / (1 - 2ε) of [-1, 1]."""
        if output.shape[1] % 2:
            raise ValueError(f"μ and ln b need an even number of channels: out_channels cannot be {output.shape[1]}")
        mean = output.chunk(2, dim=1)[0]
        return (mean.sigmoid() - 0.5) / (0.5 - self.epsilon)

    def channels(self, outputs: int) -> int:
        """Number of channels of the images that a decoder's outputs are: half of them."""
        return outputs // 2


def to_float(images: Tensor) -> Tensor:
    """Images (b, c, H, W) uint8 to [-1, 1]: 0 is -1 and 255 is 1; floats are in [-1, 1] already."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def levels_of(images: Tensor) -> Tensor:
    """Images as 8 bits: uint8 unchanged, floats in [-1, 1] rounded to the nearest level."""
    return to_uint8(images) if images.is_floating_point() else images


def to_nearest_float(images: Tensor) -> Tensor:
    """``to_float`` as numpy computes it in float64 and then rounds: the float32 number nearest to u / 127.5 - 1.

    ``to_float``, like torchvision, is one bit away from it at 128 of the 256 levels.
    """
    return (images.float() - 127.5) / 127.5


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to the nearest of 256 levels, clamped; the exact inverse of u / 127.5 - 1."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)
