"""Images of any number of channels and any depth, as floats in the data's own range.

The value ``low`` becomes -1 and ``high`` becomes 1; values beyond them are clipped. Where the file's number of channels
differs from the wanted one, grey is repeated, colour becomes its luma (BT.601), opacity is composited on white or added
as opaque. Any other difference is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vistok.images.decoding import MOST_PIXELS
from vistok.images.rgb import UnreadableImage
from vistok.images.tiff import ASK
from vistok.images.values import FileValues, read_values

LUMA = np.float32([0.299, 0.587, 0.114])  # BT.601, as Pillow's conversion to grey


class Bands:
    """Image of float32 channels in [-1, 1], and those methods of Pillow's images that transforms use.

    Args:
        channels: Pillow images of mode F, one for each channel.
    """

    def __init__(self, channels: Sequence[Image.Image]):
        self.channels = list(channels)

    @property
    def size(self) -> tuple[int, int]:
        return self.channels[0].size

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def resize(self, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC) -> "Bands":
        return Bands([channel.resize(size, resample) for channel in self.channels])

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        return Bands([channel.crop(box) for channel in self.channels])

    def transpose(self, method: Image.Transpose) -> "Bands":
        return Bands([channel.transpose(method) for channel in self.channels])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        levels = np.stack([np.asarray(channel) for channel in self.channels], axis=2).clip(-1, 1)
        return levels.astype(dtype or np.float32, copy=False)


def read_bands(
    file: str | Path | BinaryIO,
    channels: int,
    low_high: tuple[float, float] | None = None,
    max_pixels: int = MOST_PIXELS,
    argument: str = "max_pixels",
    stored: bool = False,
) -> Bands:
    """Image in a file with ``channels`` channels, upright.

    Args:
        file: Path of the file, or the open file.
        channels: Number of channels.
        low_high: Values in the file that become -1 and 1; None for 0 and the largest value of unsigned integers, or the
            window of a DICOM file.
        max_pixels: Largest accepted number of pixels.
        argument: The user's name of ``max_pixels``, for messages.
        stored: No effect: values are always read as stored.

    Raises:
        UnreadableImage: The file is not an image, is damaged, has more pixels, has other bands, or has values of
            unknown range.
    """
    return bands_of(read_values(file, max_pixels, argument), channels, low_high)


def bands_of(values: FileValues, channels: int, low_high: tuple[float, float] | None = None) -> Bands:
    """Image of values as stored. Arguments and errors: see ``read_bands``."""
    low, high = low_high or values.window or full_range(values.levels.dtype)
    levels = (values.levels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    if values.has_opacity:  # its range is always that of its type
        levels[..., -1] = values.levels[..., -1].astype(np.float32) / full_range(values.levels.dtype)[1]
    if not np.isfinite(levels).all():
        raise UnreadableImage("it has values that are not finite")
    levels = with_channels(levels.clip(0, 1), values.has_opacity, channels) * 2 - 1
    return Bands([Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(channels)])


def full_range(dtype: np.dtype) -> tuple[float, float]:
    """Range of unsigned integers.

    Raises:
        UnreadableImage: Numbers of this type have no range of their own.
    """
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableImage(f"its values are {dtype} of unknown range; {ASK}")
    return 0.0, float(np.iinfo(dtype).max)


def with_channels(levels: np.ndarray, has_opacity: bool, channels: int) -> np.ndarray:
    """Levels (H, W, k) in [0, 1] with another number of channels.

    Raises:
        UnreadableImage: The channels do not determine each other.
    """
    k = levels.shape[2]
    if k == channels:
        return levels
    colours, opacity = (levels[..., :-1], levels[..., -1:]) if has_opacity else (levels, None)
    if opacity is not None and channels in (1, 3):
        colours, opacity = colours * opacity + (1 - opacity), None
    if channels in (2, 4) and k < channels and opacity is None:
        opacity = np.ones_like(levels[..., :1])
    wanted = channels - (opacity is not None)
    if colours.shape[2] == 1 and wanted == 3:
        colours = colours.repeat(3, axis=2)
    elif colours.shape[2] == 3 and wanted == 1:
        colours = colours @ LUMA[:, None]
    elif colours.shape[2] != wanted:
        raise UnreadableImage(f"it has {k} channels, not data.channels={channels}")
    return colours if opacity is None else np.concatenate([colours, opacity], axis=2)
