"""JPEG decoding and resizing several times as fast as Pillow's, within one grey level of it (docs/data.md).

simplejpeg provides libjpeg-turbo, whose pixels equal Pillow's, in wheels for every platform, and reads from memory
without a second copy. torch itself resizes 8-bit images in the same way as Pillow.
"""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vistok.images.decoding import MOST_PIXELS, ORIENTATION, open_image, read_rgb
from vistok.images.large import View, odd_one

LARGE = 2**24  # largest image that is decoded here, in pixels: 64 MiB
LOW_BITS = np.uint32(0x7F7F7F7F)  # the low seven bits of each of a pixel's four bytes


class Pixels:
    """Image (H, W, 4) uint8 with an unused last channel, and those methods of Pillow's images that transforms use."""

    def __init__(self, levels: np.ndarray):
        self.levels = levels

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def width(self) -> int:
        return self.levels.shape[1]

    @property
    def height(self) -> int:
        return self.levels.shape[0]

    def resize(self, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC) -> "Pixels":
        """Resizes bicubically with antialiasing to any size, or by a box filter to half of each side, rounded down."""
        width, height = size
        if resample == Image.Resampling.BOX and size == (self.width // 2, self.height // 2):
            return Pixels(halve(self.levels))
        if resample != Image.Resampling.BICUBIC:
            raise ValueError(f"{resample!r} from {self.size} to {size} is not done here")
        planes = torch.from_numpy(self.levels).permute(2, 0, 1)[None]  # channels last, which torch is fast in
        resized = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
        return Pixels(resized[0].permute(1, 2, 0).numpy())

    def crop(self, box: tuple[int, int, int, int]) -> "Pixels":
        left, top, right, bottom = box
        return Pixels(self.levels[top:bottom, left:right])

    def transpose(self, method: Image.Transpose) -> "Pixels":
        if method != Image.Transpose.FLIP_LEFT_RIGHT:
            raise ValueError(f"{method!r} is not done here")
        return Pixels(self.levels[:, ::-1])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.levels[..., :3], dtype=dtype)


def read_fast(
    file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels", stored: bool = False
) -> Pixels | Image.Image | View:
    """Image in a file, upright: decoded fast if it is an ordinary JPEG, in colour or grey; else by ``read_rgb``.

    Args:
        file: Path of the file, or the open file.
        max_pixels: Largest accepted number of pixels.
        argument: The user's name of ``max_pixels``, for messages.
        stored: True ignores EXIF's orientation, as in ``read_rgb``.

    Raises:
        UnreadableImage: The file is not an image, is damaged, or has more pixels.
        ModuleNotFoundError: simplejpeg is not installed.
    """
    import simplejpeg

    try:
        data = file.read() if hasattr(file, "read") else Path(file).read_bytes()
    except OSError:
        return read_rgb(file, max_pixels, argument, stored)
    if data[:3] == b"\xff\xd8\xff" and (stored or not turned(data)):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in ("YCbCr", "Gray") and ordinary(width, height) and width * height <= max_pixels:
                return Pixels(simplejpeg.decode_jpeg(data, "RGBX"))
        except ValueError:  # truncated or damaged: Pillow decides whether it is readable
            pass
    return read_rgb(io.BytesIO(data), max_pixels, argument, stored)


def ordinary(width: int, height: int) -> bool:
    """True if an image is small and narrow enough to be decoded and resized in full.

    Pillow halves rows before columns for images whose height is more than twice their width.
    """
    return height <= 2 * width and width <= 4 * height and width * height <= LARGE


def turned(data: bytes) -> bool:
    """True if a JPEG file declares an orientation other than upright."""
    head = data[: data.find(b"\xff\xda") + 1]  # up to the first scan, perhaps that of a thumbnail within the Exif data
    if b"Exif" not in head and b"tiff:Orientation" not in head:
        return False
    try:
        with open_image(io.BytesIO(data)) as image:
            return image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # Pillow raises anything for broken files, and will do so again
        return True


def halve(levels: np.ndarray) -> np.ndarray:
    """Halves both sides of (H, W, 4) uint8, rounded down, as Pillow's box filter does: columns, then rows."""
    height, width, _ = levels.shape
    pixels = np.ascontiguousarray(levels).reshape(height, -1).view(np.uint32)  # (H, W)
    extra, third = odd_one(height) if height % 2 else (height, None)
    halved = np.empty((height // 2, width // 2), np.uint32)
    done = 0
    for part in (pixels[:extra], pixels[extra + 1 :]):  # complete pairs of rows
        for top in range(0, len(part), 64):  # as much as a cache holds
            rows = halve_columns(part[top : top + 64])
            halved[done : done + len(rows) // 2] = mean_of_two(rows[::2], rows[1::2])
            done += len(rows) // 2
    halved = halved.view(np.uint8).reshape(height // 2, width // 2, 4)
    if third is not None:
        rows = halve_columns(pixels[2 * third : 2 * third + 3]).view(np.uint8).reshape(3, -1, 4)
        halved[third] = mean_of_three(*rows)
    return halved


def halve_columns(pixels: np.ndarray) -> np.ndarray:
    """Halves the columns of (H, W) uint32 of four bytes each, rounded down."""
    extra, third = odd_one(pixels.shape[1]) if pixels.shape[1] % 2 else (pixels.shape[1], None)
    before, after = pixels[:, :extra], pixels[:, extra + 1 :]
    parts = [mean_of_two(part[:, ::2].copy(), part[:, 1::2].copy()) for part in (before, after) if part.shape[1]]
    halved = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if third is not None:
        three = (pixels[:, 2 * third + i].copy().view(np.uint8) for i in range(3))
        halved[:, third] = mean_of_three(*three).view(np.uint32)
    return halved


def mean_of_two(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of each byte of uint32, rounded up; no byte carries into the next."""
    difference = a ^ b
    difference >>= np.uint32(1)
    difference &= LOW_BITS
    return (a | b) - difference


def mean_of_three(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Rounded means of three uint8 arrays, with Pillow's weights of 22 bits."""
    third = round(2**22 / 3)
    return ((a.astype(np.int64) + b + c) * third + 2**21 >> 22).astype(np.uint8)
