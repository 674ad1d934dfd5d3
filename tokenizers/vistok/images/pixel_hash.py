"""Hashes of decoded pixels: identity of an image, and of a set of images, whatever their files and crops."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vistok.files import sha256_of_lines
from vistok.images.bands import Bands
from vistok.images.large import PLAIN, strips


def pixel_hash(image: Any) -> str:
    """SHA-256 of an image's size and pixels, as hexadecimal digits.

    The hashed bytes are ``WIDTHxHEIGHT RGB`` and a line feed in ASCII, then three bytes for each pixel, row by row. Of
    other images they are ``WIDTHxHEIGHTxCHANNELS`` and a line feed, then the float32 values of each pixel in [-1, 1].

    Args:
        image: Upright image of ``read_rgb``, ``read_fast`` or ``read_bands``, or a uint8 tensor (3, H, W). A large RGB
            image is read in strips.
    """
    if isinstance(image, Tensor):
        _, height, width = image.shape
        pixels = [image.permute(1, 2, 0).cpu().numpy()]
    elif isinstance(image, Bands):
        width, height = image.size
        sha = hashlib.sha256(f"{width}x{height}x{len(image.channels)}\n".encode())
        sha.update(np.ascontiguousarray(image))
        return sha.hexdigest()
    else:
        width, height = image.size
        full = (0, 0, width, height)
        pixels = [image] if width * height <= PLAIN else map(image.crop, strips(full))
    sha = hashlib.sha256(f"{width}x{height} RGB\n".encode())
    for part in pixels:
        sha.update(np.ascontiguousarray(part))
    return sha.hexdigest()


def set_hash(names: Sequence[str], hashes: Sequence[str]) -> str:
    """SHA-256 of a set of images: of the sorted lines ``NAME HASH``, joined by line feeds.

    Args:
        names: Names of the images, in any order.
        hashes: ``pixel_hash`` of each image.
    """
    return sha256_of_lines(sorted(f"{name} {own}" for name, own in zip(names, hashes, strict=True)))
