"""Image files of mixed kinds, made from photos: sizes, orientations, grey, palettes, transparency, CMYK, 16 bits."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag


def turned(orientation: int) -> Callable[[Image.Image, Path, np.random.Generator], None]:
    """Writes a JPEG file that declares an orientation."""

    def write(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        photo.save(path.with_suffix(".JPEG"), quality=92, exif=exif)

    return write


def grey(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.convert("L").save(path.with_suffix(".JPEG"), quality=92)


def cmyk(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.convert("CMYK").save(path.with_suffix(".JPEG"), quality=92)


def palette(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.quantize(64).save(path.with_suffix(".PNG"))


def palette_with_transparency(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.quantize(64).save(path.with_suffix(".PNG"), transparency=3)


def transparent(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """A smooth mask, under which the colours stay."""
    mask = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8)).resize(photo.size, Image.Resampling.BICUBIC)
    photo.putalpha(mask)
    photo.save(path.with_suffix(".PNG"))


def grey_with_transparency(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo = photo.convert("LA")
    photo.putalpha(int(rng.integers(0, 256)))
    photo.save(path.with_suffix(".PNG"))


def colour(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.save(path.with_suffix(".PNG"))


KINDS = [
    turned(1),
    colour,
    turned(6),
    grey,
    palette,
    turned(3),
    transparent,
    turned(8),
    cmyk,
    turned(5),
    palette_with_transparency,
    turned(2),
    grey_with_transparency,
    turned(7),
    colour,
    turned(4),
]


def photos_in(tar: Path) -> list[Image.Image]:
    """Photos of a tar file."""
    with tarfile.open(tar) as opened:
        read = [opened.extractfile(own).read() for own in opened if own.isfile()]
    held = [data for data in read if data[:3] == b"\xff\xd8\xff" or data[8:12] == b"WEBP"]
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in held]


def write_pictures(
    photos: Sequence[Image.Image], folder: Path, count: int, smallest: int = 150, largest: int = 900
) -> None:
    """Writes ``count`` files below ``folder``, in two subfolders, the same ones at every call.

    Args:
        photos: Photos in RGB.
        folder: Folder of the files.
        count: Number of files.
        smallest: Smallest side in pixels.
        largest: Largest side in pixels.
    """
    rng = np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % len(photos)]
        size = tuple(int(side) for side in rng.integers(smallest, largest, 2))
        part = min(photo.width / size[0], photo.height / size[1]) * rng.uniform(0.6, 1)
        width, height = part * size[0], part * size[1]
        left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
        photo = photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        path = folder / f"class_{i % 2}" / f"picture_{(7 * i) % count:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[i % len(KINDS)](photo, path, rng)
