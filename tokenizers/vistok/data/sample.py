"""Photos in scikit-image, so that everything runs without a download."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistok.data.batches import Sample
from vistok.data.data_module import ImageDataModule
from vistok.images.crops import ResizeShortSide, Transform, to_tensor
from vistok.images.reader import PixelForm

TRAIN = ("chelsea", "rocket", "hubble_deep_field", "motorcycle_left", "motorcycle_right", "retina", "ihc")
HELD_OUT = ("coffee", "astronaut")
SHORT_SIDE = 128  # of the held-out photos in pixels; larger for larger crops


def sample(
    image_size: int = 64,
    batch_size: int = 32,
    epoch_length: int = 4096,
    num_workers: int = 0,
    seed: int = 0,
    crop: Literal["random", "adm", "center"] = "random",
    resize: int | None = None,
    min_crop: float = 0.8,
    flip: bool = False,
    channels: int = 3,
) -> ImageDataModule:
    """Data module of crops of seven colour photos for training, and of two others for validation: coffee, astronaut.

    A training crop covers a quarter to all of its photo's short side, at a random place, with random orientation and
    colour. The held-out crops are fixed: both photos at a short side of 128 pixels (or ``image_size``, if that is
    larger), cropped at steps of a quarter of a crop.

    Args:
        image_size: Height and width of the crops in pixels, at most 300.
        batch_size: Images in a batch of each process.
        epoch_length: Number of crops in an epoch.
        num_workers: Number of processes that crop.
        seed: Seed of the crops.
        crop: Not used, like the following arguments: recipes set them for ``folder``, and so run on the sample too.
        resize: Not used.
        min_crop: Not used.
        flip: Not used.
        channels: 3, or 1 for the luma of the photos.
    """
    if channels not in (1, 3):
        raise ValueError(f"data=sample has photos of 3 channels, or 1 for grey: data.channels={channels} does not fit")
    smallest = min(min(photo(name).size) for name in TRAIN)
    if image_size > smallest:
        raise ValueError(
            f"data=sample has photos of {smallest} pixels and up: data.image_size={image_size} does not fit"
        )
    held_out = FixedCrops(HELD_OUT, image_size, grey=channels == 1)
    return ImageDataModule(
        train=RandomCrops(TRAIN, image_size, epoch_length, seed, grey=channels == 1),
        val=held_out,
        test=held_out,
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        in_memory=True,
        form=PixelForm(channels),
        about=f"photos that come with scikit-image, {' and '.join(HELD_OUT)} held out",
    )


@cache
def photo(name: str) -> Image.Image:
    """Photo in RGB, not to be modified; ``name`` is a function of ``skimage.data``, or the file that it reads."""
    from skimage import data

    special = {
        "motorcycle_left": lambda: data.stereo_motorcycle()[0],
        "motorcycle_right": lambda: data.stereo_motorcycle()[1],
        "ihc": data.immunohistochemistry,
    }
    read = special.get(name) or getattr(data, name)
    return Image.fromarray(read())


class RandomCrops:
    """Squares of random scale, place, orientation and colour from photos in memory.

    Args:
        photos: Names of the photos, drawn with equal probability.
        size: Height and width in pixels.
        length: Number of crops in an epoch.
        seed: A crop depends only on (seed, epoch, index).
        grey: True gives the luma alone.
    """

    def __init__(self, photos: tuple[str, ...], size: int, length: int, seed: int = 0, grey: bool = False):
        full = [photo(name) for name in photos]
        resize = ResizeShortSide(min(4 * size, *(min(image.size) for image in full)))
        self.photos = [resize(image, np.random.default_rng(0)) for image in full]  # resizing draws no random numbers
        self.names_of_photos = photos
        self.size, self.length, self.seed, self.grey = size, length, seed, grey

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        rng = np.random.default_rng((self.seed, *key))
        chosen = rng.integers(len(self.photos))
        image = self.photos[chosen]
        short = min(image.size)
        side = short * 4 ** -rng.random()  # a quarter to all of the short side
        left, top = (rng.uniform(0, length - side) for length in image.size)
        box = (left, top, left + side, top + side)
        crop = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        pixels = recolored(reoriented(to_tensor(crop), rng), rng)
        pixels = luma(pixels) if self.grey else pixels
        return Sample(pixels, f"{self.names_of_photos[chosen]} {left:.0f},{top:.0f} {side:.0f}")


def reoriented(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Square (3, H, H) in a random one of its eight orientations."""
    mirror, flip, transpose = rng.random(3) < 0.5
    pixels = pixels.flip(-1) if mirror else pixels
    pixels = pixels.flip(-2) if flip else pixels
    return pixels.transpose(-1, -2).contiguous() if transpose else pixels


def recolored(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Uint8 (3, H, W) with contrast scaled by 0.8 to 1.2, each channel by 0.85 to 1.15, and up to 19 levels added.

    Seven photos have few colours: without this, reconstructions of held-out photos would take on those.
    """
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.85, 1.15, 3)
    shift = rng.uniform(-19, 19)
    table = (np.arange(256) - 127.5) * gain[:, None] + 127.5 + shift  # new value of each level, by channel
    table = torch.from_numpy(table.round().clip(0, 255).astype(np.uint8))
    return torch.stack([levels[channel.long()] for levels, channel in zip(table, pixels, strict=True)])


def luma(pixels: Tensor) -> Tensor:
    """Luma (1, H, W) uint8 of an RGB image (3, H, W) uint8, by Pillow's conversion."""
    return torch.from_numpy(np.array(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).convert("L")))[None]


class FixedCrops:
    """All squares of photos on a grid with steps of a quarter of their size.

    Args:
        photos: Names of the photos.
        size: Height and width in pixels.
        grey: True gives the luma alone.
    """

    def __init__(self, photos: tuple[str, ...], size: int, grey: bool = False):
        self.crops, self._names = [], []
        rng = np.random.default_rng(0)  # resizing draws no random numbers
        for name in photos:
            pixels = to_tensor(ResizeShortSide(max(SHORT_SIDE, size))(photo(name), rng))
            pixels = luma(pixels) if grey else pixels
            for top in range(0, pixels.shape[1] - size + 1, max(1, size // 4)):
                for left in range(0, pixels.shape[2] - size + 1, max(1, size // 4)):
                    self.crops.append(pixels[:, top : top + size, left : left + size].clone())
                    self._names.append(f"{name} {left},{top}")

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        crop = self.crops[key[1]]
        return Sample(crop, self._names[key[1]], size=(crop.shape[1], crop.shape[2]))

    def names(self) -> list[str]:
        return self._names

    def sizes(self) -> list[tuple[int, int]]:
        return [(crop.shape[1], crop.shape[2]) for crop in self.crops]

    def with_transforms(self, transforms: Sequence[Transform], stored: bool = False) -> "FixedCrops":
        return self
