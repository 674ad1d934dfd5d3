"""From an image of any size to the square that a tokenizer is scored on, as the evaluators of the field cut it."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import CenterCrop as PaddedCenterCrop
from torchvision.transforms import InterpolationMode, Resize

from vistok.data.transforms import ADMCrop, CenterCrop, Transform


class OpenCVResize:
    """albumentations' SmallestMaxSize: the short side to ``size`` pixels by OpenCV's bilinear resize, not antialiased.

    OpenCV is no dependency: ``F.interpolate`` samples at the same places. OpenCV's 8-bit weights have 11 bits, so that
    its pixels may be one level off.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        scale = self.size / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=False)
        levels = (resized[0].clamp(0, 255) + 0.5).floor().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


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
