"""Crops of published evaluators, from an image of any size to the square that a tokenizer is scored on."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from vistok.images.crops import ADMCrop, CenterCrop, Transform
from vistok.images.large import BICUBIC, BILINEAR, View, resized, strips
from vistok.images.rgb import Box


class OpenCVResize:
    """albumentations' SmallestMaxSize: the short side to ``size`` pixels by OpenCV's bilinear, not antialiased."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> View:
        scale = self.size / min(image.size)
        return ResizedByOpenCV(image, tuple(round(side * scale) for side in image.size))


class ResizedByOpenCV(View):
    """View resized as by ``cv2.resize``, computed only within a crop.

    OpenCV is not a dependency; its arithmetic of 8-bit images is reproduced in numpy, bit by bit: weights of 11 bits,
    and between rows products that are shifted down before they are added, which sometimes loses a level.
    """

    def __init__(self, image: Image.Image | View, size: tuple[int, int]):
        self.image, self.size = image, size

    def pixels(self, box: Box) -> Image.Image:
        first, last = box[::2]
        left, right, left_weight, right_weight = taps(self.image.width, self.width, first, last)
        outside = (left < 0) | (right > self.image.width - 1)  # beyond the middle of the outermost pixels
        left_weight, right_weight = np.where(outside, 2048, left_weight), np.where(outside, 0, right_weight)
        left, right = np.where(left < 0, 0, left), right.clip(max=self.image.width - 1)
        above, below, *weights = taps(self.image.height, self.height, *box[1::2])
        above, below = (at.clip(0, self.image.height - 1) for at in (above, below))
        needed, start = np.union1d(above, below), int(left.min())
        rows = np.empty((len(needed), last - first, 3), np.int32)
        for part in strips((start, int(needed[0]), int(right.max()) + 1, int(needed[-1]) + 1)):
            within = (needed >= part[1]) & (needed < part[3])
            if within.any():
                stored = np.asarray(self.image.crop(part))[needed[within] - part[1]].astype(np.int32)
                sides = (left, left_weight), (right, right_weight)
                products = (stored[:, at - start] * weight[:, None] for at, weight in sides)
                rows[within] = sum(products) >> 4
        halves = [
            (rows[np.searchsorted(needed, at)] * by[:, None, None]) >> 16
            for at, by in zip((above, below), weights, strict=True)
        ]
        return Image.fromarray(((sum(halves) + 2) >> 2).astype(np.uint8))


def taps(source: int, target: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two neighbours in ``source`` of each pixel ``first`` to ``last`` of ``target``, and their weights of sum 2048."""
    at = ((np.arange(first, last) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    share = at - low.astype(np.float32)
    weights = (np.rint(part * np.float32(2048)).astype(np.int32) for part in (1 - share, share))
    return low, low + 1, *weights


class Stacked:
    """Two crops of one image as one image, the second below the first, since a sample has one tensor.

    Args:
        first: Transforms of the first crop, a square of ``size`` pixels.
        second: Transforms of the second crop, a square of at most ``size`` pixels, padded with black at its right.
        size: Height and width of the first crop in pixels.
    """

    def __init__(self, first: Sequence[Transform], second: Sequence[Transform], size: int):
        self.parts, self.size = (first, second), size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        crops = []
        for transforms in self.parts:
            crop = image
            for transform in transforms:
                crop = transform(crop, rng)
            crops.append(Image.fromarray(np.asarray(crop)))
        canvas = Image.new("RGB", (self.size, self.size + crops[1].height))
        canvas.paste(crops[0], (0, 0))
        canvas.paste(crops[1], (0, self.size))
        return canvas


class TorchvisionResize:
    """torchvision's Resize of a Pillow image: the short side to ``size`` pixels, the long side rounded down.

    Args:
        size: Length of the short side in pixels.
        resample: Pillow's antialiased filter.
    """

    def __init__(self, size: int, resample: Image.Resampling):
        self.size, self.resample = size, resample

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        short = min(image.size)
        size = tuple(self.size if side == short else int(self.size * side / short) for side in image.size)
        return image if size == image.size else resized(image, size, self.resample)


class TorchvisionCenterCrop:
    """torchvision's CenterCrop, which rounds to even where ``CenterCrop`` rounds down; black beyond the image."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top = (
            round((side - self.size) / 2) if side >= self.size else -((self.size - side) // 2) for side in image.size
        )
        return image.crop((left, top, left + self.size, top + self.size))


CROPS: dict[str, Callable[[int], list[Transform]]] = {
    # ADM's: halved by a box filter while at least twice too large, then bicubic, then the centre
    "adm": lambda size: [ADMCrop(size)],
    # Pillow's filters, antialiased, and torchvision's centre, which rounds where others truncate
    "bicubic": lambda size: [TorchvisionResize(size, BICUBIC), TorchvisionCenterCrop(size)],
    "bilinear": lambda size: [TorchvisionResize(size, BILINEAR), TorchvisionCenterCrop(size)],
    "opencv": lambda size: [OpenCVResize(size), CenterCrop(size)],
    # the centre of the image without resizing; black beyond it
    "none": lambda size: [TorchvisionCenterCrop(size)],
}

NATIVE = "native"  # no crop: every image in its own size, of any aspect


def crop_transforms(crop: str, size: int) -> list[Transform]:
    """Transforms of a crop of ``CROPS`` of ``size`` pixels; none for ``NATIVE``."""
    return [] if crop == NATIVE else CROPS[crop](size)


def crop_text(name: str) -> str:
    """Name of a preparation as text for reports: ``adm crops``, ``native sizes``."""
    return f"{name} {'sizes' if name.startswith(NATIVE) else 'crops'}"
