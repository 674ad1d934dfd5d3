"""Conversion of one image file to the framework's pixels, and back, to try out a tokenizer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.images.bands import bands_of
from vistok.images.crops import ADMCrop, read_crop
from vistok.images.decoding import MOST_PIXELS, upright
from vistok.images.ranges import to_float, to_uint8
from vistok.images.reader import PixelForm, reader
from vistok.images.rgb import UnreadableImage
from vistok.images.values import FileValues, values_of


def read_image(
    source: str | Path | Image.Image | np.ndarray,
    size: int | None = None,
    max_pixels: int | None = None,
    channels: int = 3,
    value_range: Sequence[float] | None = None,
) -> Tensor:
    """Reads an image as a tokenizer's input: ADM's centre crop, or all of it, (1, channels, H, W) in [-1, 1].

    Args:
        source: A file (JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM or JPEG 2000; with other than the default channels
            and range also DICOM and ``.npy``), a Pillow image, or an array: uint8 (H, W) or (H, W, 3), with
            ``channels`` or ``value_range`` also of other types and numbers of channels.
        size: Height and width of the crop in pixels, a multiple of the tokenizer's ``factor``; None for the full image
            in its own size, which ``Tokenizer.reconstruct`` pads to such a multiple.
        max_pixels: Largest accepted number of pixels of a file; None is 178,956,970.
        channels: Number of channels, as the tokenizer's ``encoder.in_channels``.
        value_range: Values in the file that become -1 and 1, as the tokenizer's ``value_range``; None for 0 and the
            largest value of the file's type.

    Raises:
        ValueError: The file is unreadable, an array is not uint8, or the size is not positive.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    form = PixelForm(channels, None if value_range is None else (float(value_range[0]), float(value_range[1])))
    transforms = [] if size is None else [ADMCrop(size)]
    rng = np.random.default_rng(0)  # a centre crop draws no random numbers
    if isinstance(source, np.ndarray):
        if form.rgb and source.dtype != np.uint8:
            raise ValueError(f"an array of pixels must be uint8, not {source.dtype}")
        levels = source[:, :, None] if source.ndim == 2 and not form.rgb else source
        given = Image.fromarray(levels) if form.rgb else FileValues(levels)
    elif isinstance(source, Image.Image):
        given = source if form.rgb else values_of(source)
    else:
        given = None
    if given is not None:
        convert = upright if form.rgb else partial(bands_of, channels=channels, low_high=form.low_high)
        return to_float(read_crop(given, convert, transforms, rng)[None])
    read = reader(max_pixels=MOST_PIXELS if max_pixels is None else max_pixels, pixels=form, argument="max_pixels")
    try:
        return to_float(read_crop(source, read, transforms, rng)[None])
    except UnreadableImage as error:
        raise UnreadableImage(f"{source} cannot be read: {error}") from error


def write_image(images: Tensor, path: str | Path, value_range: Sequence[float] | None = None) -> None:
    """Writes images in [-1, 1] side by side to one file; the path's extension selects the format.

    Args:
        images: (b, c, H, W). Grey (c = 1), grey with opacity (2), RGB (3) and RGBA (4) are written as 8 bits by Pillow;
            other numbers of channels need a ``.tif`` file.
        path: The file.
        value_range: Values in the file of -1 and 1, as the tokenizer's ``value_range``: rounded to 16-bit integers in
            a ``.png`` or ``.tif`` file, signed ones if the range needs them. None writes 8 bits.

    Raises:
        ValueError: The images have another shape, the extension is unknown, or its format cannot hold the values.
    """
    if images.ndim != 4 or not images.shape[1]:
        raise ValueError(f"images have the shape {tuple(images.shape)}, not (b, c, H, W)")
    row = torch.cat(list(images.detach().cpu().float().clamp(-1, 1)), dim=2).permute(1, 2, 0)
    levels = to_uint8(row).numpy() if value_range is None else _integers(row, value_range)
    channels, tiff = levels.shape[2], Path(path).suffix.lower() in (".tif", ".tiff")
    if tiff and (channels > 4 or levels.dtype != np.uint8):
        import tifffile

        kind = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(path, levels, photometric=kind, planarconfig="contig" if channels > 1 else None)
        return
    if channels > 4 or (levels.dtype != np.uint8 and (channels > 1 or levels.dtype != np.uint16)):
        raise ValueError(f"{path} cannot hold {channels} channels of {levels.dtype}; a .tif file can")
    Image.fromarray(levels[..., 0] if channels == 1 else np.ascontiguousarray(levels)).save(path)


def _integers(images: Tensor, value_range: Sequence[float]) -> np.ndarray:
    """Images in [-1, 1] as 16-bit integers in the range, unsigned if it has no negative values."""
    low, high = value_range
    if low < -(2**15) or high > 2**16 - 1 or (low < 0 and high > 2**15 - 1):
        raise ValueError(f"value_range=[{low:g}, {high:g}] does not fit 16-bit integers")
    values = ((images.double() + 1) / 2 * (high - low) + low).round()
    return values.numpy().astype(np.int16 if low < 0 else np.uint16)
