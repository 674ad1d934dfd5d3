"""Choice of the decoder of image files."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from vistok.images.decoding import MOST_PIXELS, read_rgb
from vistok.images.fast_jpeg import read_fast


def reader(decoder: str = "pillow", max_pixels: int = MOST_PIXELS) -> Callable[[str | Path | BinaryIO], Any]:
    """Function that reads an image for transforms: ``pillow``'s ``read_rgb``, or ``fast_jpeg.read_fast``.

    Raises:
        ValueError: The decoder is unknown, simplejpeg is not installed, or ``max_pixels`` is below 1.
    """
    if max_pixels < 1:
        raise ValueError(f"data.max_pixels must be at least 1, not {max_pixels}")
    if decoder not in ("pillow", "fast"):
        raise ValueError(f"data.decoder must be pillow or fast, not {decoder!r}")
    if decoder == "pillow":
        return functools.partial(read_rgb, max_pixels=max_pixels, argument="data.max_pixels")
    if find_spec("simplejpeg") is None:
        raise ValueError("data.decoder=fast needs simplejpeg: pip install 'vistok[fast]'")
    return functools.partial(read_fast, max_pixels=max_pixels, argument="data.max_pixels")
