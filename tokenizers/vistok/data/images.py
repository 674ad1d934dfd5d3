"""From the bytes of any image file to RGB, and from images to a batch that knows what it holds."""

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of 16-bit grey
MOST_REPLACED = 100  # unreadable images in a row before a training set is given up


class UnreadableImage(ValueError):
    """The file is no image, is cut short, or holds values of no known range."""


class Sample(NamedTuple):
    """One image of a data set."""

    image: Tensor | None  # (3, H, W) uint8; None if it cannot be read and nothing takes its place
    name: str
    skipped: tuple[str, ...] = ()  # images that could not be read, and why
    place: tuple[int, int, int] | None = None  # in a stream: worker, shards and images of the next one that are over


class Batch(NamedTuple):
    """What a loader yields."""

    images: Tensor  # (b, 3, H, W) uint8; b may be less than asked for, or 0, where images could not be read
    names: list[str]
    skipped: list[str]
    place: tuple[int, int, int] | None = None  # of the last one

    def __len__(self) -> int:
        return len(self.images)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch, without those that have no image."""
    read = [sample for sample in samples if sample.image is not None]
    images = torch.stack([sample.image for sample in read]) if read else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    skipped = [reason for sample in samples for reason in sample.skipped]
    return Batch(images, [sample.name for sample in read], skipped, samples[-1].place)


def read_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """The image in a file, upright, as 8-bit RGB (see ``to_rgb``).

    Raises:
        UnreadableImage: It cannot be decoded to its end.
    """
    try:
        with Image.open(file) as opened:
            return to_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # decoders of broken files raise anything
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))  # an address: other words every time
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def reader(decoder: str) -> Callable[[str | Path | BinaryIO], Any]:
    """The function that reads an image for transforms: ``pillow``'s ``read_rgb``, or ``fast.read_fast``.

    Raises:
        ValueError: There is no such decoder, or simplejpeg is not installed.
    """
    if decoder not in ("pillow", "fast"):
        raise ValueError(f"data.decoder must be pillow or fast, not {decoder!r}")
    if decoder == "pillow":
        return read_rgb
    if find_spec("simplejpeg") is None:
        raise ValueError("data.decoder=fast needs simplejpeg: pip install 'vistok[fast]'")
    from vistok.data.fast import read_fast

    return read_fast


def image_extensions() -> set[str]:
    """The extensions of files that Pillow reads, such as ``.jpg``."""
    return {extension for extension, name in Image.registered_extensions().items() if name in Image.OPEN}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB.

    Grey is repeated, 16 bits are scaled to 8, what is transparent shows white, CMYK is converted as Pillow does.

    Raises:
        UnreadableImage: The values are floats, whose range is not known.
    """
    if image.mode == "F":
        raise UnreadableImage("its values are floats of no known range")
    if image.mode in SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")
