"""Pixels as data URIs, each image with its reconstructions in a limited number of bytes."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SMALL = 96  # pixels; up to this side a picture is lossless if it fits
LARGEST = 1024  # pixels; longer sides are reduced
SMALLEST = 16  # pixels; shorter sides are not reduced further
LOSSLESS = 101
QUALITIES = (95, 90, 80, 70, 55, 40, 25)  # of WebP, 0 to 100


def fitted(pictures: Sequence[np.ndarray], room: float) -> list[str]:
    """Pictures (H, W, 3) uint8 that are compared with each other, as data URIs of WebP of one quality.

    It is the highest quality at which they have at most ``room`` characters together. If none suffices, their sides are
    halved; sides below 32 pixels are not halved, whatever the room.
    """
    images = [Image.fromarray(own) for own in pictures]
    longest = max(max(image.size) for image in images)
    if longest > LARGEST:
        images = [reduced(image, LARGEST / longest) for image in images]
    qualities = (LOSSLESS, *QUALITIES) if longest <= SMALL else QUALITIES
    while True:
        for quality in qualities:
            uris = [webp(image, quality) for image in images]
            if sum(map(len, uris)) <= room:
                return uris
        if min(min(image.size) for image in images) < 2 * SMALLEST:
            return uris
        images = [reduced(image, 0.5) for image in images]


def reduced(image: Image.Image, scale: float) -> Image.Image:
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BOX)


def webp(image: Image.Image, quality: int) -> str:
    return data_uri(image, "WebP", **({"lossless": True} if quality == LOSSLESS else {"quality": quality}))


def palette_picture(indices: np.ndarray, colours: np.ndarray) -> str:
    """Indices (H, W) uint8 into colours (256, 3) uint8, as a data URI."""
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return data_uri(image, "PNG", optimize=True)


def data_uri(image: Image.Image, kind: str, **options: bool | int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
