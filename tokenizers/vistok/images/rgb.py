"""Conversion of any Pillow image to 8-bit RGB."""

import numpy as np
from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of 16-bit grey
Box = tuple[int, int, int, int]  # left, top, right, bottom


class UnreadableImage(ValueError):
    """The file is not an image, is truncated, or has values of unknown range."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow image to 8-bit RGB.

    Grey is repeated, 16 bits are scaled to 8, transparency is composited on white, CMYK is converted as in Pillow.

    Raises:
        UnreadableImage: The values are floats, whose range is unknown.
    """
    if image.mode == "F":
        raise UnreadableImage("its values are floats of unknown range")
    if image.mode in SIXTEEN_BITS:
        levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return as_stored(image)


def as_stored(image: Image.Image) -> Image.Image:
    """Converts any Pillow image to 8-bit RGB by Pillow's own ``convert``.

    Transparency is dropped, so that hidden colours appear, and 16 bits are clipped to 8.
    """
    return image if image.mode == "RGB" else image.convert("RGB")
