"""Any Pillow image as 8-bit RGB."""

import numpy as np
from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of 16-bit grey
Box = tuple[int, int, int, int]  # left, top, right, bottom


class UnreadableImage(ValueError):
    """The file is no image, is cut short, or holds values of no known range."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB.

    Grey is repeated, 16 bits are scaled to 8, what is transparent shows white, CMYK is converted as Pillow does.

    Raises:
        UnreadableImage: The values are floats, whose range is not known.
    """
    if image.mode == "F":
        raise UnreadableImage("its values are floats of no known range")
    if image.mode in SIXTEEN_BITS:
        levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")
