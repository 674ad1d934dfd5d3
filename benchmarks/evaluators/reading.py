"""Image files as published evaluators read and crop them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def files(folder: Path) -> list[Path]:
    """Files as ``ImageFolder`` lists them: classes in order, then the files of each."""
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def as_stored(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def batches(
    folder: Path,
    prepare: Callable[[Image.Image], Tensor],
    convert: Callable[[Image.Image], Image.Image] = as_stored,
    size: int = 8,
) -> Iterator[Tensor]:
    """Batches of images, which every published evaluator opens and converts by Pillow."""
    paths = files(folder)
    for first in range(0, len(paths), size):
        yield torch.stack([prepare(convert(Image.open(path))) for path in paths[first : first + size]])


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """Halved by a box filter while twice too large, resized bicubically, the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def upright_on_white(image: Image.Image) -> Image.Image:
    """EXIF's orientation applied, transparency composited on white."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def albumentations_crop(size: int) -> Callable[[Image.Image], np.ndarray]:
    import albumentations

    crop = albumentations.Compose(
        [albumentations.SmallestMaxSize(max_size=size), albumentations.CenterCrop(height=size, width=size)]
    )
    return lambda image: crop(image=np.array(image).astype(np.uint8))["image"]
