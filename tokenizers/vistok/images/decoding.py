"""Opening and decoding of image files, within bounds."""

import functools
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from vistok.images import large, tiff
from vistok.images.rgb import SIXTEEN_BITS, UnreadableImage, as_stored, to_rgb

# Pillow's names of formats that hold photos. Its other decoders stay unused: EPS starts a program, few are maintained.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
MOST_PIXELS = 178_956_970  # default of max_pixels; Pillow's own limit
ORIENTATION = 0x0112  # EXIF's tag
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs what it raises, for each file
_limit_of_pillow = threading.Lock()  # protects Pillow's limit, which is global and also applies to tiles


def open_image(file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels") -> Image.Image:
    """Opens an image of one of ``FORMATS`` and reads only its header. The package opens all images here.

    Args:
        file: Path of the file, or the open file.
        max_pixels: Largest accepted number of pixels.
        argument: The user's name of ``max_pixels``, for messages.

    Raises:
        UnreadableImage: The image has more pixels.
        Exception: The file is not an image; decoders raise any exception.
    """
    known = formats()
    with _limit_of_pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns at half of the size that it refuses
        former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels / 2
        try:
            return Image.open(file, formats=known)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            count = f"{int(pixels[0]):,}" if pixels else "more"
            raise UnreadableImage(f"it has {count} pixels, more than {argument}={max_pixels}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = former


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow build supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_rgb(
    file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels", stored: bool = False
) -> Image.Image | large.View:
    """Image in a file, upright, as 8-bit RGB (see ``to_rgb``); a large image as a view (see ``large``).

    Args:
        file: Path of the file, or the open file.
        max_pixels: Largest accepted number of pixels.
        argument: The user's name of ``max_pixels``, for messages.
        stored: True ignores EXIF's orientation and converts by ``as_stored``, like ``Image.open(file).convert("RGB")``.

    Raises:
        UnreadableImage: The file is not an image, is damaged, or has more pixels.
    """
    try:
        with open_image(file, max_pixels, argument) as opened:
            if stored:
                if opened.format == "TIFF":
                    tiff.refuse_others(opened)
                opened.load()
                return upright(opened, convert=as_stored)
            orientation = opened.getexif().get(ORIENTATION, 1)
            image = tiff.as_meant(opened) if opened.format == "TIFF" else opened
            image.load()
            return upright(image, orientation)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders of broken files raise anything
        if isinstance(error, UnidentifiedImageError) and (shape := tiff.shape_of(file)):
            bands = shape[2]
            raise UnreadableImage(f"it has {bands} bands; data.channels={bands} reads all of them") from error
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))  # a memory address, which varies
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


class AsStored:
    """Reader that decodes images as they are stored (see ``read_rgb``).

    Args:
        read: Reader with the argument ``stored``.
    """

    def __init__(self, read: Callable[..., Any]):
        self.read = read

    def __call__(self, file: str | Path | BinaryIO) -> Any:
        return self.read(file, stored=True)

    def upright(self, file: str | Path | BinaryIO, image: Any) -> Any:
        """The same image upright and as it is seen, which nearly always is ``image``, the result of a call."""
        if not isinstance(image, Image.Image | large.View):
            return image  # of values, which are always as stored
        with open_image(file) as opened:
            plain = opened.mode not in (*SIXTEEN_BITS, "F") and not opened.has_transparency_data
            same = plain and opened.getexif().get(ORIENTATION, 1) == 1
        return image if same else self.read(file)


def size_of(file: str | Path | BinaryIO) -> tuple[int, int] | None:
    """Height and width of the upright image in a file, by its header; None if that is not readable."""
    try:
        with open_image(file, max_pixels=sys.maxsize) as opened:
            _, *turns = large.UPRIGHT.get(opened.getexif().get(ORIENTATION, 1), (None, False, False, False))
            return opened.size if turns[2] else (opened.height, opened.width)
    except Exception:  # decoders of broken files raise anything
        shape = tiff.shape_of(file)
        return shape and shape[:2]


def upright(
    image: Image.Image, orientation: int = 1, convert: Callable[[Image.Image], Image.Image] = to_rgb
) -> Image.Image | large.View:
    """Pillow image as 8-bit RGB with EXIF's orientation applied; a large image as a view, not in memory twice."""
    if image.width * image.height > large.PLAIN:
        convert(image.crop((0, 0, 1, 1)))  # refuses what cannot be converted
        return large.Decoded(image, orientation, convert)
    method, *_ = large.UPRIGHT.get(orientation, (None,))
    return convert(image if method is None else image.transpose(method))


def image_extensions() -> set[str]:
    """Extensions of the files of ``FORMATS``, such as ``.jpg``."""
    known = formats()
    return {extension for extension, name in Image.registered_extensions().items() if name in known}
