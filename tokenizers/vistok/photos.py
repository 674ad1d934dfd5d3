"""One image from a file to the framework's pixels, and back: for trying a tokenizer out."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.pixels import to_float, to_uint8


def read_image(source: str | Path | Image.Image | np.ndarray, size: int) -> Tensor:
    """An image as a tokenizer takes it: the square in its middle, resized as ADM does, (1, 3, size, size) in [-1, 1].

    Args:
        source: A file of any format that Pillow reads, a Pillow image, or an array (H, W) or (H, W, 3) of uint8.
        size: Height and width, pixels; a multiple of the tokenizer's ``factor``.

    Raises:
        ValueError: It cannot be read, an array is not of uint8, or the size is not above 0.
    """
    from vistok.data.images import read_rgb, to_rgb  # here, since vistok.data brings Lightning
    from vistok.data.transforms import ADMCrop, to_tensor

    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8:
            raise ValueError(f"an array of pixels must be uint8, not {source.dtype}")
        source = Image.fromarray(source)
    image = to_rgb(source) if isinstance(source, Image.Image) else read_rgb(source)
    cropped = ADMCrop(size)(image, np.random.default_rng(0))  # a centre crop draws nothing
    return to_float(to_tensor(cropped)[None])


def write_image(images: Tensor, path: str | Path) -> None:
    """Write images (b, 3, H, W) in [-1, 1] to one file, side by side; the format is that of the path's extension.

    Raises:
        ValueError: The images have another shape, or the extension is of no known format.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have the shape {tuple(images.shape)}, not (b, 3, H, W)")
    row = torch.cat(list(to_uint8(images.detach().cpu())), dim=2)
    Image.fromarray(row.permute(1, 2, 0).contiguous().numpy()).save(path)
