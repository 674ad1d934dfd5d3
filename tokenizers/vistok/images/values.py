"""Values of image files as they are stored: any number of bands, integers of 8 to 32 bits or floats.

Pillow decodes what it decodes without a loss. Other TIFF files are read by tifffile, PNG files with 16 bits in several
bands by torchvision, DICOM files by pydicom, and ``.npy`` files of (H, W) or (H, W, k) here.
"""

import io
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from vistok.images import dicom, tiff
from vistok.images.decoding import MOST_PIXELS, ORIENTATION, open_image
from vistok.images.large import UPRIGHT
from vistok.images.rgb import SIXTEEN_BITS, UnreadableImage
from vistok.untrusted.arrays import read_array

NUMPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class FileValues(NamedTuple):
    """Values of an image."""

    levels: np.ndarray  # (H, W, k), of the type in the file
    has_opacity: bool = False  # True if the last band is opacity
    window: tuple[float, float] | None = None  # values that a DICOM file displays as black and as white


def read_values(file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels") -> FileValues:
    """Values of an image, upright.

    Args:
        file: Path of the file, or the open file.
        max_pixels: Largest accepted number of pixels, of all pages together.
        argument: The user's name of ``max_pixels``, for messages.

    Raises:
        UnreadableImage: The file is not an image, is damaged, or has more pixels.
    """
    try:
        data = file.read() if hasattr(file, "read") else Path(file).read_bytes()
        if data.startswith(NUMPY):
            return FileValues(_of_array(read_array(data, "it"), max_pixels, argument))
        if dicom.is_dicom(data):
            levels, window = dicom.values_of(data, max_pixels, argument)
            return FileValues(levels, window=window)
        if data.startswith(TIFF) and (found := tiff.values_of(data, max_pixels, argument)):
            return FileValues(*found)
        return _of_pillow(data, max_pixels, argument)
    except (UnreadableImage, ImportError):
        raise
    except Exception as error:  # decoders of broken files raise anything
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def _of_array(array: np.ndarray, max_pixels: int, argument: str) -> np.ndarray:
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif":
        raise UnreadableImage(f"its array is {array.dtype} {array.shape}, not numbers (H, W) or (H, W, k)")
    if array.shape[0] * array.shape[1] > max_pixels:
        count = array.shape[0] * array.shape[1]
        raise UnreadableImage(f"it has {count:,} pixels, more than {argument}={max_pixels}")
    return array[:, :, None] if array.ndim == 2 else array


def _of_pillow(data: bytes, max_pixels: int, argument: str) -> FileValues:
    with open_image(io.BytesIO(data), max_pixels, argument) as opened:
        if opened.format == "PNG" and opened.mode in ("RGB", "RGBA", "LA") and "16" in str(opened.tile):
            return _of_deep_png(data)
        opened.load()
        method, *_ = UPRIGHT.get(opened.getexif().get(ORIENTATION, 1), (None,))
        image = opened if method is None else opened.transpose(method)
        return values_of(image)


def values_of(image: Image.Image) -> FileValues:
    """Values of a Pillow image; palettes, CMYK and YCbCr become RGB."""
    if image.mode in SIXTEEN_BITS:
        return FileValues(np.asarray(image).astype(np.uint16)[:, :, None])
    if image.mode == "F":
        return FileValues(np.asarray(image)[:, :, None])
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return FileValues(np.asarray(image.convert("LA" if grey else "RGBA")), True)
    levels = np.asarray(image.convert("L" if grey else "RGB"))
    return FileValues(levels[:, :, None] if grey else levels)


def _of_deep_png(data: bytes) -> FileValues:
    import torch
    from torchvision.io import ImageReadMode, decode_png

    levels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return FileValues(levels.permute(1, 2, 0).numpy(), len(levels) in (2, 4))
