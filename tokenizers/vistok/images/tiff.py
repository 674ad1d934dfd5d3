"""TIFF files of scanners, microscopes and satellites: Pillow's errors are mended, or tifffile reads the file."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vistok.images.rgb import SIXTEEN_BITS, UnreadableImage

REDUCED, BITS, PHOTOMETRIC, SAMPLES, KIND, EXTRA = 254, 258, 262, 277, 339, 338  # tags
WHITE_IS_ZERO, RGB = 0, 2  # photometric interpretations
KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
THUMBNAIL = 1  # bit of the tag REDUCED
ASK = "data.range=[LOW, HIGH] or data.range=auto says which values are black and white"


def as_meant(image: Image.Image) -> Image.Image:
    """TIFF image in Pillow for conversion to 8-bit RGB, inverted if it stores white as 0 and Pillow does not do so.

    Errors are those of ``refuse_others``.
    """
    refuse_others(image)
    if image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO and image.mode in SIXTEEN_BITS:
        return Image.fromarray(np.uint16(2 ** image.tag_v2[BITS][0] - 1) - np.asarray(image).astype(np.uint16))
    return image


def refuse_others(image: Image.Image) -> None:
    """Refuses a TIFF image in Pillow that 8-bit RGB would not show in full.

    Raises:
        UnreadableImage: It has further pages or bands, or values of unknown range.
    """
    tags = image.tag_v2
    bits, samples = tags.get(BITS, (1,))[0], tags.get(SAMPLES, 1)
    kind = tags.get(KIND, (1,))[0]
    if kind != 1 or bits > 16:
        raise UnreadableImage(f"its values are {bits}-bit {KINDS.get(kind, 'numbers')} of unknown range; {ASK}")
    extra = tags.get(EXTRA, ())
    opacity = len(extra) == 1 and extra[0] != 0
    if tags.get(PHOTOMETRIC) == RGB and samples > 3 + opacity:
        raise UnreadableImage(f"it has {samples} bands; data.channels={samples} reads all of them")
    if (pages := pages_of(image)) > 1:
        raise UnreadableImage(f"it has {pages} pages; data.channels={pages * samples} reads them as channels")


def pages_of(image: Image.Image) -> int:
    """Number of pages as large as the first one, without thumbnails; ``image`` is at its first page again."""
    count, size = 1, image.size
    for page in range(1, getattr(image, "n_frames", 1)):
        image.seek(page)
        count += image.size == size and not image.tag_v2.get(REDUCED, 0) & THUMBNAIL
    image.seek(0)
    return count


def shape_of(file: str | Path | BinaryIO) -> tuple[int, int, int] | None:
    """Height, width and number of bands of a TIFF file that Pillow does not know; None if it is no TIFF file."""
    import tifffile

    try:
        if not isinstance(file, str | Path):
            file.seek(0)
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            return page.imagelength, page.imagewidth, page.samplesperpixel
    except Exception:  # of a damaged file, anything
        return None


def values_of(data: bytes, max_pixels: int, argument: str) -> tuple[np.ndarray, bool] | None:
    """Values (H, W, k) in a TIFF file, and True if the last band is opacity; pages of one size are further bands.

    Returns:
        None for files that Pillow reads in full: with a palette, CMYK or YCbCr, or compressed as tifffile cannot read.

    Raises:
        UnreadableImage: It has more pixels.
        Exception: The file is damaged; tifffile raises anything.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0]
        pages = [page for page in file.pages if page.shape == first.shape and not page.subfiletype & THUMBNAIL]
        if first.imagewidth * first.imagelength * len(pages) > max_pixels:
            count = first.imagewidth * first.imagelength * len(pages)
            raise UnreadableImage(f"it has {count:,} pixels, more than {argument}={max_pixels}")
        if first.photometric not in (0, 1, 2) or first.colormap is not None:
            return None
        try:
            levels = np.concatenate([_bands(page) for page in pages], axis=2)
        except ValueError as error:
            if "imagecodecs" in str(error) and len(pages) == 1 and first.bitspersample == 8:
                return None
            raise
        opacity = len(pages) == 1 and len(first.extrasamples) == 1 and first.extrasamples[0] != 0
        if first.photometric == WHITE_IS_ZERO:
            levels = _inverted(levels, first.bitspersample)
    return levels, opacity


def _bands(page) -> np.ndarray:
    """Values (H, W, k) of a page."""
    levels = page.asarray()
    if levels.ndim == 2:
        return levels[:, :, None]
    return levels.transpose(1, 2, 0) if page.planarconfig == 2 else levels


def _inverted(levels: np.ndarray, bits: int) -> np.ndarray:
    if levels.dtype.kind != "u":
        raise UnreadableImage("it stores white as 0 in numbers of unknown range")
    return levels.dtype.type(2**bits - 1) - levels
