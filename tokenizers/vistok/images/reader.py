"""Choice of the function that reads image files."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vistok.images.bands import read_bands
from vistok.images.decoding import MOST_PIXELS, read_rgb
from vistok.images.fast_jpeg import read_fast


class PixelForm(NamedTuple):
    """Form in which images are read."""

    channels: int = 3
    low_high: tuple[float, float] | None = None  # values that become -1 and 1; None for those of the files' type
    as_values: bool = False  # True reads values as floats, whatever the files are; else 8-bit RGB where possible

    @property
    def rgb(self) -> bool:
        """True for 8-bit RGB."""
        return self.channels == 3 and self.low_high is None and not self.as_values


def reader(
    decoder: str = "pillow",
    max_pixels: int = MOST_PIXELS,
    pixels: PixelForm = PixelForm(),
    argument: str = "data.max_pixels",
) -> Callable[[str | Path | BinaryIO], Any]:
    """Function that reads an image for transforms.

    It is ``read_bands``, or for 8-bit RGB ``pillow``'s ``read_rgb`` or ``fast_jpeg.read_fast``.

    Raises:
        ValueError: The decoder is unknown or reads 8-bit RGB only, simplejpeg is not installed, or a number is below 1.
    """
    if pixels.channels < 1:
        raise ValueError(f"data.channels must be at least 1, not {pixels.channels}")
    if max_pixels < 1:
        raise ValueError(f"{argument} must be at least 1, not {max_pixels}")
    if decoder not in ("pillow", "fast"):
        raise ValueError(f"data.decoder must be pillow or fast, not {decoder!r}")
    if not pixels.rgb:
        if decoder == "fast":
            raise ValueError("data.decoder=fast reads 8-bit RGB only: leave it out with data.channels or data.range")
        return functools.partial(
            read_bands,
            channels=pixels.channels,
            low_high=pixels.low_high,
            max_pixels=max_pixels,
            argument=argument,
        )
    if decoder == "pillow":
        return functools.partial(read_rgb, max_pixels=max_pixels, argument=argument)
    if find_spec("simplejpeg") is None:
        raise ValueError("data.decoder=fast needs simplejpeg: pip install 'vistok[fast]'")
    return functools.partial(read_fast, max_pixels=max_pixels, argument=argument)
