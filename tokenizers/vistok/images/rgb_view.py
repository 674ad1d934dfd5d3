"""The three channels of an image that networks trained on RGB look at, and those of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RGBA = 4
SQUARES = 8  # of the checkerboard behind RGBA, along the shorter side
LIGHT, DARK = 255, 204  # their grey levels


@dataclass(frozen=True)
class RGBView:
    """Choice of three channels: those of RGB, grey three times, or the given bands.

    Attributes:
        channels: Number of channels of the images.
        bands: Red, green and blue, counted from 0; None for images of 1 or 3 channels.
    """

    channels: int = 3
    bands: tuple[int, ...] | None = None

    @property
    def exists(self) -> bool:
        """False if the channels do not determine the view."""
        return self.bands is not None or self.channels in (1, 3)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (b, c, H, W) as (b, 3, H, W), with the same values."""
        if self.bands is not None:
            return images[:, list(self.bands)]
        return images.expand(-1, 3, -1, -1) if self.channels == 1 else images

    def picture(self, images: Tensor) -> Tensor:
        """Images (b, c, H, W) uint8 as (b, 3, H, W) to be looked at.

        Four channels without ``bands`` are RGBA, composited on a checkerboard, where white shapes are seen too; of two
        the first is grey, of more than four the first three are red, green and blue.
        """
        if self.exists:
            return self(images)
        if self.channels == RGBA:
            opacity = images[:, 3:].float() / 255
            return (images[:, :3].float() * opacity + checkerboard(images) * (1 - opacity)).round().to(torch.uint8)
        return images[:, :1].expand(-1, 3, -1, -1) if self.channels < 3 else images[:, :3]


def checkerboard(images: Tensor) -> Tensor:
    """Grey levels (H, W) of light and dark squares, as large as images (b, c, H, W)."""
    height, width = images.shape[-2:]
    side = max(1, min(height, width) // SQUARES)
    rows, columns = (torch.arange(n, device=images.device) // side for n in (height, width))
    return torch.where((rows[:, None] + columns) % 2 == 0, LIGHT, DARK)


def rgb_view(channels: int, bands: Sequence[int] | None) -> RGBView:
    """View by the user's ``data.channels`` and ``data.rgb_bands``.

    Raises:
        ValueError: The bands are not three channels of the images.
    """
    if bands is None:
        return RGBView(channels)
    bands = list(bands)
    if len(bands) != 3 or not all(type(band) is int and 0 <= band < channels for band in bands):
        raise ValueError(
            f"data.rgb_bands must be three channels of data.channels={channels}, counted from 0, not {bands}"
        )
    return RGBView(channels, tuple(bands))
