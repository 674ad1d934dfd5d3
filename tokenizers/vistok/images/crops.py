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


class ResizeShortSide:
    """Resizes the short side to ``size`` pixels: bicubic, antialiased as in Pillow, or to the nearest pixel."""

    def __init__(self, size: int, nearest: bool = False):
        self.size, self.nearest = size, nearest

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        scale = self.size / min(image.size)
        size = tuple(max(self.size, round(side * scale)) for side in image.size)
        if size == image.size:
            return image
        return to_nearest(image, size) if self.nearest else resized(image, size)


class ADMCrop:
    """Resizes and crops as ADM does (arXiv:2105.05233, code).

    The image is halved with a box filter while it is at least twice too large, then resized bicubically to the final
    scale.

    Args:
        size: Side of the square crop in pixels.
        min_fraction: Smallest share of the short side that a random crop covers, in (0, 1]; the largest is 1.
        random: True draws the scale and place of the crop; False takes the full short side, at the centre.
        nearest: True resizes in one step to the nearest pixel, for pixel art, which ADM does not do.
    """

    def __init__(self, size: int, min_fraction: float = 1.0, random: bool = False, nearest: bool = False):
        if not 0 < min_fraction <= 1:
            raise ValueError(f"the smallest share that a crop covers must be in (0, 1], not {min_fraction}")
        self.size, self.random, self.nearest = size, random, nearest
        self.largest = int(np.ceil(size / min_fraction))  # short side of which the crop is that share

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        short = int(rng.integers(self.size, self.largest + 1)) if self.random else self.size
        while min(image.size) >= 2 * short and not self.nearest:
            image = resized(image, (image.width // 2, image.height // 2), BOX)
        scale = short / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = to_nearest(image, size) if self.nearest else resized(image, size)
        return (RandomCrop if self.random else CenterCrop)(self.size)(image, rng)


def to_nearest(image: Any, size: tuple[int, int]) -> Any:
    """Image resized to ``size``, width and height, by the nearest pixel; a large one is decoded in full."""
    if isinstance(image, View):
        image = image.crop((0, 0, *image.size))
    return image.resize(size, Image.Resampling.NEAREST)


class RandomCrop:
    """Square of ``size`` pixels at a random place."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left = int(rng.integers(image.width - self.size + 1))
        top = int(rng.integers(image.height - self.size + 1))
        return image.crop((left, top, left + self.size, top + self.size))


class CenterCrop:
    """Square of ``size`` pixels at the centre."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return image.crop((left, top, left + self.size, top + self.size))


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
