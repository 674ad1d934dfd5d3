"""Transforms from a Pillow image to the crop for a batch, with random choices from a given generator."""

import numpy as np
from PIL import Image

from vistok.images.crops import ADMCrop, CenterCrop, RandomCrop, ResizeShortSide, Size, Transform
from vistok.images.rgb import UnreadableImage


class Flip:
    """Mirrors an image left to right with probability 1/2."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


class AtLeast:
    """Refuses an image whose short side has fewer than ``size`` pixels."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if min(image.size) < self.size:
            raise UnreadableImage(
                f"it has {image.width}x{image.height} pixels, smaller than the crop of {self.size}; "
                "leave data.resize unset to enlarge such images"
            )
        return image


def croppings(
    crop: str, size: Size, resize: int | None, min_crop: float, flip: bool, resize_filter: str = "bicubic"
) -> tuple[list[Transform], list[Transform]]:
    """Transforms for training, and those for validation and evaluation: ADM's, or the centre if ``resize`` is 0.

    Args:
        crop: Crop of training images: ``random``, ``adm`` or ``center``.
        size: Size of the crops; a size that is no square needs ``resize=None``.
        resize: Short side in pixels before a ``random`` or ``center`` crop; None means ``size``, 0 does not resize.
        min_crop: Smallest share of the short side that an ``adm`` crop covers, in (0, 1].
        flip: True mirrors each training image with probability 1/2.
        resize_filter: ``bicubic`` or ``nearest``.
    """
    if resize_filter not in ("bicubic", "nearest"):
        raise ValueError(f"data.resize_filter must be bicubic or nearest, not {resize_filter!r}")
    nearest = resize_filter == "nearest"
    resized = [] if resize == 0 else [ResizeShortSide(resize or size, nearest)]
    crops = {
        "random": [*resized, RandomCrop(size)],
        "adm": [ADMCrop(size, min_crop, True, nearest)],
        "center": [*resized, CenterCrop(size)],
    }
    if crop not in crops:
        raise ValueError(f"data.crop must be one of {', '.join(crops)}, not {crop!r}")
    if resize and isinstance(size, int) and resize < size:
        raise ValueError(f"data.resize={resize} is smaller than the crop of {size} pixels")
    return crops[crop] + [Flip()] * flip, [CenterCrop(size) if resize == 0 else ADMCrop(size, nearest=nearest)]
