"""Conversion of one image file to the framework's pixels, and back, to try out a tokenizer."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.images.crops import ADMCrop, read_crop
from vistok.images.decoding import MOST_PIXELS, read_rgb, upright
from vistok.images.ranges import to_float, to_uint8
from vistok.images.rgb import UnreadableImage


def read_image(source: str | Path | Image.Image | np.ndarray, size: int, max_pixels: int | None = None) -> Tensor:
    """Reads an image as a tokenizer's input: ADM's centre crop, (1, 3, size, size) in [-1, 1].

    Args:
        source: A file (JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM or JPEG 2000), a Pillow image, or a uint8 array (H,
            W) or (H, W, 3).
        size: Height and width in pixels; a multiple of the tokenizer's ``factor``.
        max_pixels: Largest accepted number of pixels of a file; None is 178,956,970.

    Raises:
        ValueError: The file is unreadable, an array is not uint8, or the size is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8:
            raise ValueError(f"an array of pixels must be uint8, not {source.dtype}")
        source = Image.fromarray(source)
    rng = np.random.default_rng(0)  # a centre crop draws no random numbers
    if isinstance(source, Image.Image):
        return to_float(read_crop(source, upright, [ADMCrop(size)], rng)[None])
    read = partial(read_rgb, max_pixels=MOST_PIXELS if max_pixels is None else max_pixels)
    try:
        return to_float(read_crop(source, read, [ADMCrop(size)], rng)[None])
    except UnreadableImage as error:
        raise UnreadableImage(f"{source} cannot be read: {error}") from error


def write_image(images: Tensor, path: str | Path) -> None:
    """Writes images (b, 3, H, W) in [-1, 1] side by side to one file; the path's extension selects the format.

    Raises:
        ValueError: The images have another shape, or the extension is unknown.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have the shape {tuple(images.shape)}, not (b, 3, H, W)")
    row = torch.cat(list(to_uint8(images.detach().cpu())), dim=2)
    Image.fromarray(row.permute(1, 2, 0).contiguous().numpy()).save(path)
