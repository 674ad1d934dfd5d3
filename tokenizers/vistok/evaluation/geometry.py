"""From an image of any size to the square that a tokenizer is scored on, as the evaluators of the field cut it."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop as PaddedCenterCrop
from torchvision.transforms import InterpolationMode, Resize

from vistok.data.transforms import ADMCrop, CenterCrop, Transform


class OpenCVResize:
    """albumentations' SmallestMaxSize: the short side to ``size`` pixels by OpenCV's bilinear resize, not antialiased.

    OpenCV is no dependency; its arithmetic of 8-bit images is done here in numpy, to the bit: weights of 11 bits, and
    between rows products shifted down before they are added, which loses a level now and then.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        scale = self.size / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        pixels = np.asarray(image).astype(np.int32)
        left, right, left_weight, right_weight = taps(pixels.shape[1], width)
        first, last = left < 0, right > pixels.shape[1] - 1  # beyond the middle of the outermost pixels
        left_weight, right_weight = np.where(first | last, 2048, left_weight), np.where(first | last, 0, right_weight)
        left, right = np.where(first, 0, left), right.clip(max=pixels.shape[1] - 1)
        rows = (pixels[:, left] * left_weight[:, None] + pixels[:, right] * right_weight[:, None]) >> 4
        above, below, *weights = taps(pixels.shape[0], height)
        parts = zip((above, below), weights, strict=True)
        halves = [(rows[at.clip(0, len(rows) - 1)] * weight[:, None, None]) >> 16 for at, weight in parts]
        return Image.fromarray(((sum(halves) + 2) >> 2).astype(np.uint8))


def taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each of ``target`` pixels the two among ``source`` that it lies between, and their weights of 2048."""
    at = ((np.arange(target) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    share = at - low.astype(np.float32)
    weights = (np.rint(part * np.float32(2048)).astype(np.int32) for part in (1 - share, share))
    return low, low + 1, *weights


class Torchvision:
    """torchvision's transforms of Pillow images, as one of ours."""

    def __init__(self, *transforms: Callable[[Image.Image], Image.Image]):
        self.transforms = transforms

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for transform in self.transforms:
            image = transform(image)
        return image


CROPS: dict[str, Callable[[int], list[Transform]]] = {
    # ADM's: halved by a box filter while at least twice too large, then bicubic, then the centre
    "adm": lambda size: [ADMCrop(size)],
    # Pillow's filters, antialiased, and torchvision's centre, which rounds where others cut
    "bicubic": lambda size: [Torchvision(Resize(size, InterpolationMode.BICUBIC), PaddedCenterCrop(size))],
    "bilinear": lambda size: [Torchvision(Resize(size, InterpolationMode.BILINEAR), PaddedCenterCrop(size))],
    "opencv": lambda size: [OpenCVResize(size), CenterCrop(size)],
    # the centre of the image as it is; black where it is too small
    "none": lambda size: [Torchvision(PaddedCenterCrop(size))],
}
