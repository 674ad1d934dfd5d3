"""Sizes (H, W) of aspect buckets, and the bucket of an image by its aspect ratio.

All buckets have about the same number of pixels, as in the training of SDXL (arXiv:2307.01952, section 2.3).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

Shape = tuple[int, int]  # height and width in pixels
Asked = Literal["auto"] | Sequence[Sequence[int]]
AUTO = "auto"
PARTS = (16, 8)  # sides of automatic buckets are multiples of image_size divided by the first of these that fits
SIMILAR = 2  # largest ratio of the numbers of pixels of a bucket and of a square of image_size


def bucket_shapes(asked: Asked, image_size: int, grid: Callable[[int, int, str], Any]) -> tuple[Shape, ...]:
    """Sizes of the buckets that the user asks for.

    Args:
        asked: ``data.buckets``: ``auto``, or a list of [H, W].
        image_size: ``data.image_size``, in pixels.
        grid: The tokenizer's ``grid``: refuses a size (H, W) that the tokenizer does not accept, by a name.

    Raises:
        ValueError: ``asked`` is invalid, or the tokenizer does not accept a size.
    """
    if not isinstance(asked, str) or asked != AUTO:
        shapes = listed_shapes(asked, image_size)
        for height, width in shapes:
            grid(height, width, f"data.buckets: [{height},{width}]")
        return shapes
    refused = None
    for parts in (parts for parts in PARTS if image_size % parts == 0):
        shapes = shapes_of_area(parts, image_size // parts)
        try:
            for height, width in shapes:
                grid(height, width, f"data.buckets=auto with data.image_size={image_size}: {height}x{width}")
            return shapes
        except ValueError as error:
            refused = error
    raise refused or ValueError(f"data.buckets=auto needs a data.image_size in multiples of 8, not {image_size}")


def listed_shapes(asked: Any, image_size: int) -> tuple[Shape, ...]:
    """Sizes in a user's list, checked.

    Raises:
        ValueError: It is no list of different sizes, or one has far more or fewer pixels than ``image_size`` squared.
    """
    listed = asked if isinstance(asked, Sequence) and not isinstance(asked, str) else []
    pairs: list[tuple[Any, ...]] = [tuple(pair) if isinstance(pair, Sequence) else () for pair in listed]
    if not pairs or not all(len(pair) == 2 and all(type(side) is int and side > 0 for side in pair) for pair in pairs):
        raise ValueError(f"data.buckets must be null, auto or a list of [HEIGHT,WIDTH], not {asked}")
    for height, width in pairs:
        if not 1 / SIMILAR <= height * width / image_size**2 <= SIMILAR:
            raise ValueError(
                f"data.buckets: [{height},{width}] has {height * width:,} pixels, and data.image_size={image_size} "
                f"{image_size**2:,}: they may differ by a factor of {SIMILAR}"
            )
        if pairs.count((height, width)) > 1:
            raise ValueError(f"data.buckets has [{height},{width}] twice")
    return tuple((height, width) for height, width in pairs)


def shapes_of_area(parts: int, step: int) -> tuple[Shape, ...]:
    """Sizes of aspect ratios from 1:4 to 4:1, from wide to tall.

    Sides are multiples of ``step`` pixels; no size has more pixels than a square of ``parts`` steps.
    """
    wide = [(short * step, parts**2 // short * step) for short in range(parts // 2, parts)]
    return (*wide, (parts * step, parts * step), *((long, short) for short, long in reversed(wide)))


def largest_shape(asked: Asked | None, image_size: int) -> Shape:
    """Size with the most pixels that training has: that of a bucket, or of the square images without buckets."""
    shapes = [(image_size, image_size)] if asked in (None, AUTO) else listed_shapes(asked, image_size)
    return max(shapes, key=lambda shape: shape[0] * shape[1])


def nearest_bucket(sizes: Sequence[Shape | None], shapes: Sequence[Shape]) -> np.ndarray:
    """Bucket of each image (n,) int64: that whose aspect ratio differs by the smallest factor, the first of equal ones.

    Args:
        sizes: Height and width of each image; one without a size counts as a square.
        shapes: Size of each bucket.
    """
    ratios = np.log([1.0 if size is None else size[0] / size[1] for size in sizes])
    of_buckets = np.log([height / width for height, width in shapes])
    best, nearest = np.full(len(ratios), np.inf), np.zeros(len(ratios), dtype=np.int64)
    for i, ratio in enumerate(of_buckets):
        distance = np.abs(ratios - ratio)
        closer = distance < best - 1e-9
        best[closer], nearest[closer] = distance[closer], i
    return nearest
