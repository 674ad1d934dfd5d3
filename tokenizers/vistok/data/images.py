"""From the bytes of any image file to RGB, and from images to a batch that knows what it holds."""

import functools
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from vistok.data.large import View

# Pillow's names of formats that hold photos. Its other decoders stay unused: EPS starts a program, few are maintained.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
MOST_PIXELS = 178_956_970  # of an image, unless max_pixels says otherwise; Pillow's own limit
ORIENTATION = 0x0112  # EXIF's tag
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of 16-bit grey
Box = tuple[int, int, int, int]  # left, top, right, bottom
MOST_REPLACED = 100  # unreadable images in a row before a training set is given up
_limit_of_pillow = threading.Lock()  # held while it is ours: Pillow has one for the process, of images and their tiles


class UnreadableImage(ValueError):
    """The file is no image, is cut short, or holds values of no known range."""


class Sample(NamedTuple):
    """One image of a data set."""

    image: Tensor | None  # (3, H, W) uint8; None if it cannot be read and nothing takes its place
    name: str
    skipped: tuple[str, ...] = ()  # images that could not be read, and why
    place: tuple[int, int, int] | None = None  # in a stream: worker, shards and images of the next one that are over


class Batch(NamedTuple):
    """What a loader yields and a training step takes: images alone unless more is asked for."""

    images: Tensor  # (b, 3, H, W) in [-1, 1]; uint8 from a loader. Where some cannot be read b is less, or 0
    labels: Tensor | None = None  # (b,) int64
    captions: Sequence[str] | None = None
    mask: Tensor | None = None  # (b, 1, H, W) bool, True where a pixel is known
    names: Sequence[str] = ()
    skipped: Sequence[str] = ()
    place: tuple[int, int, int] | None = None  # of the last one

    @classmethod
    def of(cls, images: "Batch | Tensor") -> "Batch":
        """A batch as it is, or of bare images."""
        return images if isinstance(images, cls) else cls(images)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch, without those that have no image."""
    read = [sample for sample in samples if sample.image is not None]
    images = torch.stack([sample.image for sample in read]) if read else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    skipped = [reason for sample in samples for reason in sample.skipped]
    names = [sample.name for sample in read]
    return Batch(images, names=names, skipped=skipped, place=samples[-1].place)


def open_image(file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels") -> Image.Image:
    """An image of one of ``FORMATS`` of which only the header is read. All images of the package are opened here.

    Args:
        file: Its path, or the file itself.
        max_pixels: The largest image.
        argument: What the user calls that, for messages.

    Raises:
        UnreadableImage: It is larger.
        Exception: It is no image; decoders raise anything.
    """
    known = formats()
    with _limit_of_pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns at half of the size that it refuses
        former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels / 2
        try:
            return Image.open(file, formats=known)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            many = f"{int(pixels[0]):,}" if pixels else "more"
            raise UnreadableImage(f"it has {many} pixels, more than {argument}={max_pixels}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = former


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_rgb(
    file: str | Path | BinaryIO, max_pixels: int = MOST_PIXELS, argument: str = "max_pixels"
) -> "Image.Image | View":
    """The image in a file, upright, as 8-bit RGB (see ``to_rgb``); a large one as a view (see ``large``).

    Args:
        file: Its path, or the file itself.
        max_pixels: The largest image.
        argument: What the user calls that, for messages.

    Raises:
        UnreadableImage: It cannot be decoded to its end, or is larger.
    """
    try:
        with open_image(file, max_pixels, argument) as opened:
            opened.load()
            return upright(opened, opened.getexif().get(ORIENTATION, 1))
    except UnreadableImage:
        raise
    except Exception as error:  # decoders of broken files raise anything
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))  # an address: other words every time
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def upright(image: Image.Image, orientation: int = 1) -> "Image.Image | View":
    """A Pillow image as 8-bit RGB, turned as EXIF's orientation says; a large one as a view, not in memory twice."""
    from vistok.data.large import PLAIN, UPRIGHT, Decoded

    if image.width * image.height > PLAIN:
        to_rgb(image.crop((0, 0, 1, 1)))  # refuses what cannot be converted
        return Decoded(image, orientation)
    method, *_ = UPRIGHT.get(orientation, (None,))
    return to_rgb(image if method is None else image.transpose(method))


def reader(decoder: str = "pillow", max_pixels: int = MOST_PIXELS) -> Callable[[str | Path | BinaryIO], Any]:
    """The function that reads an image for transforms: ``pillow``'s ``read_rgb``, or ``fast.read_fast``.

    Raises:
        ValueError: There is no such decoder, simplejpeg is not installed, or no image is so small.
    """
    if max_pixels < 1:
        raise ValueError(f"data.max_pixels must be at least 1, not {max_pixels}")
    if decoder not in ("pillow", "fast"):
        raise ValueError(f"data.decoder must be pillow or fast, not {decoder!r}")
    if decoder == "pillow":
        return functools.partial(read_rgb, max_pixels=max_pixels, argument="data.max_pixels")
    if find_spec("simplejpeg") is None:
        raise ValueError("data.decoder=fast needs simplejpeg: pip install 'vistok[fast]'")
    from vistok.data.fast import read_fast

    return functools.partial(read_fast, max_pixels=max_pixels, argument="data.max_pixels")


def image_extensions() -> set[str]:
    """The extensions of files of ``FORMATS``, such as ``.jpg``."""
    known = formats()
    return {extension for extension, name in Image.registered_extensions().items() if name in known}


def encodable(text: str) -> str:
    """Text that any file can hold: bytes of names that are no UTF-8 are spelled out, as in ``caf\\udce9.png``."""
    return text.encode(errors="backslashreplace").decode()


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB.

    Grey is repeated, 16 bits are scaled to 8, what is transparent shows white, CMYK is converted as Pillow does.

    Raises:
        UnreadableImage: The values are floats, whose range is not known.
    """
    if image.mode == "F":
        raise UnreadableImage("its values are floats of no known range")
    if image.mode in SIXTEEN_BITS:
        levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")
