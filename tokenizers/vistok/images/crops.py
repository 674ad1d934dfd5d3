"""Crops of images; a large image is resized only within its crop (``large.resized``).

An image is Pillow's, or an object with the same methods as far as they are used here (``fast_jpeg.Pixels``,
``large.View``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.images.decoding import AsStored
from vistok.images.large import BOX, View, resized
from vistok.images.pixel_hash import pixel_hash
from vistok.images.rgb import UnreadableImage

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]
Size = int | tuple[int, int]  # of a crop, in pixels: the side of a square, or height and width


class ResizeShortSide:
    """Resizes to the smallest image that covers ``size``; for a square, its short side becomes ``size`` pixels.

    It is bicubic, antialiased as in Pillow, or to the nearest pixel.
    """

    def __init__(self, size: Size, nearest: bool = False):
        (self.height, self.width), self.nearest = sides(size), nearest

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        scale = max(self.width / image.width, self.height / image.height)
        size = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        if size == image.size:
            return image
        return to_nearest(image, size) if self.nearest else resized(image, size)


class ADMCrop:
    """Resizes and crops as ADM does (arXiv:2105.05233, code).

    The image is halved with a box filter while it is at least twice too large, then resized bicubically to the final
    scale.

    Args:
        size: Size of the crop.
        min_fraction: Smallest share of the short side that a random crop covers, in (0, 1]; the largest is 1. For a
            crop that is not square, it is the share of the side of the largest crop of that shape.
        random: True draws the scale and place of the crop; False takes the full short side, at the centre.
        nearest: True resizes in one step to the nearest pixel, for pixel art, which ADM does not do.
    """

    def __init__(self, size: Size, min_fraction: float = 1.0, random: bool = False, nearest: bool = False):
        if not 0 < min_fraction <= 1:
            raise ValueError(f"the smallest share that a crop covers must be in (0, 1], not {min_fraction}")
        (self.height, self.width), self.random, self.nearest = sides(size), random, nearest
        self.short = min(self.height, self.width)
        self.largest = int(np.ceil(self.short / min_fraction))  # short side of which the crop's is that share

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        short = int(rng.integers(self.short, self.largest + 1)) if self.random else self.short
        width, height = self.width * short / self.short, self.height * short / self.short  # to be covered
        while image.width >= 2 * width and image.height >= 2 * height and not self.nearest:
            image = resized(image, (image.width // 2, image.height // 2), BOX)
        scale = max(width / image.width, height / image.height)
        size = (round(image.width * scale), round(image.height * scale))
        image = to_nearest(image, size) if self.nearest else resized(image, size)
        return (RandomCrop if self.random else CenterCrop)((self.height, self.width))(image, rng)


def to_nearest(image: Any, size: tuple[int, int]) -> Any:
    """Image resized to ``size``, width and height, by the nearest pixel; a large one is decoded in full."""
    if isinstance(image, View):
        image = image.crop((0, 0, *image.size))
    return image.resize(size, Image.Resampling.NEAREST)


class RandomCrop:
    """Crop of a size at a random place."""

    def __init__(self, size: Size):
        self.height, self.width = sides(size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left = int(rng.integers(image.width - self.width + 1))
        top = int(rng.integers(image.height - self.height + 1))
        return image.crop((left, top, left + self.width, top + self.height))


class CenterCrop:
    """Crop of a size at the centre."""

    def __init__(self, size: Size):
        self.height, self.width = sides(size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a crop."""
    return (size, size) if isinstance(size, int) else size


def read_crop(
    file: Any, read: Callable[[Any], Any], transforms: Sequence[Transform], rng: np.random.Generator
) -> Tensor:
    """Reads an image and applies transforms; returns (3, H, W) uint8. Errors: see ``read_sized_crop``."""
    return read_sized_crop(file, read, transforms, rng).image


class Cropped(NamedTuple):
    """A cropped image, and what is known of the whole one."""

    image: Tensor  # (3, H, W) uint8
    size: tuple[int, int]  # height and width before the transforms
    sha256: str  # hash of the upright image before the transforms, by pixel_hash; empty if it was not asked for


def read_sized_crop(
    file: Any,
    read: Callable[[Any], Any],
    transforms: Sequence[Transform],
    rng: np.random.Generator,
    hashed: bool = False,
) -> Cropped:
    """Reads an image, with its hash if ``hashed``, and applies transforms.

    Raises:
        UnreadableImage: The file is not an image or is damaged, a transform refuses it, or memory is insufficient.
    """
    try:
        image = read(file)
        size, sha256 = (image.height, image.width), ""
        if hashed:
            sha256 = pixel_hash(read.upright(file, image) if isinstance(read, AsStored) else image)
        for transform in transforms:
            image = transform(image, rng)
        return Cropped(to_tensor(image), size, sha256)
    except MemoryError as error:
        raise UnreadableImage("there is not enough memory to read and crop it") from error


def to_tensor(image: Image.Image) -> Tensor:
    """Converts an image to (c, H, W): uint8, or float32 in [-1, 1] for ``Bands``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
