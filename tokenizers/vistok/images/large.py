"""Large images as views, which are converted, halved and resized only where pixels are read.

A ``View`` computes a strip of rows at a time and has those methods of Pillow's images that transforms use. Its pixels
equal those that Pillow computes from the full image.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from vistok.images.rgb import Box, to_rgb

PILLOW = int(PIL.__version__.partition(".")[0])

PLAIN = 2**22  # largest image or result that is held in full, in pixels: 16 MiB
STRIP = 2**16  # pixels computed at a time for larger ones
BICUBIC, BILINEAR, BOX = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX
SUPPORT = {BICUBIC: 2.0, BILINEAR: 1.0}  # of a filter, in the larger of the image's and the result's pixels
ONE = 2**22  # the weight 1 in Pillow's arithmetic of 8-bit images
UPRIGHT = {  # by EXIF's orientation: the transposition; then if it mirrors columns, mirrors rows, swaps the two
    2: (Image.Transpose.FLIP_LEFT_RIGHT, True, False, False),
    3: (Image.Transpose.ROTATE_180, True, True, False),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, True, False),
    5: (Image.Transpose.TRANSPOSE, False, False, True),
    6: (Image.Transpose.ROTATE_270, True, False, True),
    7: (Image.Transpose.TRANSVERSE, True, True, True),
    8: (Image.Transpose.ROTATE_90, False, True, True),
}


class View(ABC):
    """RGB image whose pixels are computed when they are read.

    Attributes:
        size: Width and height.
    """

    size: tuple[int, int]

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    @abstractmethod
    def pixels(self, box: Box) -> Image.Image:
        """Pixels in a box within the image."""

    def crop(self, box: Box) -> Image.Image:
        """Pixels in a box (left, top, right, bottom); black beyond the image's edges."""
        left, top, right, bottom = box
        inside = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        if inside == tuple(box):
            return self.pixels(inside)
        canvas = Image.new("RGB", (right - left, bottom - top))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            canvas.paste(self.pixels(inside), (inside[0] - left, inside[1] - top))
        return canvas

    def resize(self, size: tuple[int, int], resample: Image.Resampling = BICUBIC) -> "View":
        """View resized bicubically or bilinearly with antialiasing, or halved by a box filter, rounded down."""
        if resample == BOX and size == (self.width // 2, self.height // 2):
            return Halved(self)
        return Resized(self, size, resample)

    def transpose(self, method: Image.Transpose) -> Image.Image:
        return self.crop((0, 0, *self.size)).transpose(method)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        levels = np.empty((self.height, self.width, 3), np.uint8)
        for strip in strips((0, 0, *self.size)):
            levels[strip[1] : strip[3]] = np.asarray(self.pixels(strip))
        return levels.astype(dtype or np.uint8, copy=False)


def rows_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """True if Pillow averages rows before columns: since version 13, where height shrinks far more than width."""
    (width, height), (new_width, new_height) = size, target
    return PILLOW >= 13 and height - new_height > max(0, 2 * (width - new_width))


def strips(box: Box) -> Iterator[Box]:
    """Splits a box into strips of complete rows, each of at most ``STRIP`` pixels unless a row has more."""
    left, top, right, bottom = box
    rows = max(1, STRIP // (right - left))
    for first in range(top, bottom, rows):
        yield left, first, right, min(first + rows, bottom)


def resized(image: Any, size: tuple[int, int], resample: Image.Resampling = BICUBIC) -> Any:
    """``image.resize(size, resample)``, as a view if the image, the result or the intermediate image is large."""
    if isinstance(image, Image.Image) and max(image.width, size[0]) * max(image.height, size[1]) > PLAIN:
        image = Decoded(image)
    return image.resize(size, resample)


class Decoded(View):
    """Pillow image of any mode, with its orientation applied and converted to RGB.

    Args:
        image: Image of any mode that ``convert`` accepts.
        orientation: EXIF's orientation.
        convert: Conversion to RGB.
    """

    def __init__(
        self, image: Image.Image, orientation: int = 1, convert: Callable[[Image.Image], Image.Image] = to_rgb
    ):
        self.image, self.convert = image, convert
        self.method, *self.turns = UPRIGHT.get(orientation, (None, False, False, False))
        self.size = image.size[::-1] if self.turns[2] else image.size

    def pixels(self, box: Box) -> Image.Image:
        (left, top, right, bottom), (columns, rows, swapped) = box, self.turns
        if columns:
            left, right = self.width - right, self.width - left
        if rows:
            top, bottom = self.height - bottom, self.height - top
        stored = self.image.crop((top, left, bottom, right) if swapped else (left, top, right, bottom))
        return self.convert(stored if self.method is None else stored.transpose(self.method))


class Transposed(View):
    """Rows as columns."""

    def __init__(self, image: View):
        self.image, self.size = image, image.size[::-1]

    def pixels(self, box: Box) -> Image.Image:
        left, top, right, bottom = box
        return self.image.pixels((top, left, bottom, right)).transpose(Image.Transpose.TRANSPOSE)


class Halved(View):
    """View halved on both sides by a box filter, rounded down."""

    def __init__(self, image: View):
        self.image, self.size = image, (image.width // 2, image.height // 2)
        self.rows_first = rows_first(image.size, self.size)

    def pixels(self, box: Box) -> Image.Image:
        canvas = Image.new("RGB", (box[2] - box[0], box[3] - box[1]))
        for left, top, right, bottom in strips(box):
            for y in windows(self.image.height, top, bottom):
                for x in windows(self.image.width, left, right):
                    stored = self.image.pixels((x.start, y.start, x.stop, y.stop))
                    across, down = (x.last - x.first, stored.height), (stored.width, y.last - y.first)
                    part = stored.resize(down if self.rows_first else across, BOX)
                    part = part.resize((across[0], down[1]), BOX)
                    canvas.paste(part, (x.first - box[0], y.first - box[1]))
        return canvas


class Resized(View):
    """Another size, by a bicubic or bilinear filter.

    Args:
        image: The image.
        size: Width and height.
        resample: ``BICUBIC`` or ``BILINEAR``.
    """

    def __init__(self, image: View, size: tuple[int, int], resample: Image.Resampling):
        if resample not in SUPPORT:
            raise ValueError(f"{resample!r} from {image.size} to {size} is not done here")
        self.image, self.size, self.resample = image, size, resample
        self.rows_first = rows_first(image.size, size)

    def pixels(self, box: Box) -> Image.Image:
        if self.rows_first:
            other = Resized(Transposed(self.image), self.size[::-1], self.resample)
            other.rows_first = False
            return Transposed(other).pixels(box)
        left, top, right, bottom = box
        down = Taps(self.image.height, self.height, top, bottom, self.resample)
        rows = Image.new("RGB", (right - left, down.stop - down.start))
        for part in strips((0, down.start, self.image.width, down.stop)):
            rows.paste(self._columns(left, right, part[1], part[3]), (0, part[1] - down.start))
        if not down.few:
            return rows.resize((right - left, self.height), self.resample).crop((0, top, right - left, bottom))
        return Image.fromarray(down.applied(np.asarray(rows)))

    def _columns(self, left: int, right: int, top: int, bottom: int) -> Image.Image:
        """Columns of the result, for some rows of the image."""
        across = Taps(self.image.width, self.width, left, right, self.resample)
        stored = self.image.pixels((across.start, top, across.stop, bottom))
        if not across.few:
            return stored.resize((self.width, bottom - top), self.resample).crop((left, 0, right, bottom - top))
        levels = across.applied(np.asarray(stored).transpose(1, 0, 2))
        return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 0, 2)))


class Taps:
    """Source pixels and weights for pixels ``first`` to ``last`` of a resized row, as in Pillow.

    If most of the resized row is needed, Pillow computes it from the full row; ``few`` is True otherwise.
    """

    def __init__(self, length: int, target: int, first: int, last: int, resample: Image.Resampling):
        self.few = target > 4 * (last - first)
        self.start, self.stop = 0, length
        if not self.few:
            return
        scale = length / target
        stretch = max(scale, 1.0)
        support = SUPPORT[resample] * stretch
        centres = (np.arange(first, last) + 0.5) * scale
        begin = np.trunc(centres - support + 0.5).clip(min=0).astype(np.int64)
        end = np.trunc(centres + support + 0.5).clip(max=length).astype(np.int64)
        self.start, self.stop = int(begin[0]), int(end[-1])
        places = begin[:, None] + np.arange((end - begin).max())
        weights = kernel(np.abs((places - centres[:, None] + 0.5) * (1.0 / stretch)), resample)
        weights[places >= end[:, None]] = 0
        weights /= weights.cumsum(1)[:, -1:]  # summed one by one, as in a loop
        self.weights = np.trunc(weights * ONE + np.copysign(0.5, weights)).astype(np.int32)
        self.places = places.clip(max=self.stop - 1) - self.start

    def applied(self, levels: np.ndarray) -> np.ndarray:
        """Applies the weights to rows of pixels; returns (stop - start, n, 3) uint8."""
        total = np.full((len(self.places), *levels.shape[1:]), ONE // 2, np.int32)
        for place, weight in zip(self.places.T, self.weights.T, strict=True):
            total += levels[place] * weight[:, None, None]
        return (total >> 22).clip(0, 255).astype(np.uint8)


def kernel(x: np.ndarray, resample: Image.Resampling) -> np.ndarray:
    """Weights of a filter at distances x."""
    if resample == BILINEAR:
        return np.where(x < 1, 1 - x, 0)
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


class Window(NamedTuple):
    """Range of a halved row, and the range of source pixels that it averages."""

    first: int
    last: int
    start: int
    stop: int


def windows(length: int, first: int, last: int) -> Iterator[Window]:
    """Splits ``first`` to ``last`` of a halved row of ``length`` pixels where the number of averaged pixels changes."""
    if length % 2 == 0:
        yield Window(first, last, 2 * first, 2 * last)
        return
    extra, third = odd_one(length)
    before = extra // 2 if third is None else third  # all other means have two pixels
    after = before if third is None else third + 1
    if first < (stop := min(last, before)):
        yield Window(first, stop, 2 * first, 2 * stop)
    if third is not None and first <= third < last:
        yield Window(third, third + 1, 2 * third, 2 * third + 3)
    if (start := max(first, after)) < last:
        yield Window(start, last, 2 * start + 1, 2 * last + 1)


@functools.lru_cache(maxsize=1024)
def odd_one(size: int) -> tuple[int, int | None]:
    """Pixel of an odd number that has no partner when pairs are averaged in the windows of Pillow's box filter.

    Returns:
        Its position, which is even. If it is the third pixel of a mean, also the position of that mean; None if
        rounding puts it between two windows, so that it is in no mean.
    """
    half = size // 2
    scale = size / half
    centres = (np.arange(half) + 0.5) * scale
    firsts = (centres - scale / 2 + 0.5).astype(int)
    lasts = np.minimum((centres + scale / 2 + 0.5).astype(int), size)
    places = firsts[:, None] + np.arange(4)
    within = (places - centres[:, None] + 0.5) * (1.0 / scale)
    within = (within > -0.5) & (within <= 0.5) & (places < lasts[:, None])
    threes = (within.sum(1) == 3).nonzero()[0]
    if len(threes):
        return 2 * int(threes[0]) + 2, int(threes[0])
    taken = np.zeros(size, bool)
    taken[places[within]] = True
    return int(np.argmin(taken)), None
