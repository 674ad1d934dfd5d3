"""Images of a folder."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistok.data.batches import MOST_REPLACED, Sample
from vistok.data.data_module import ImageDataModule
from vistok.data.image_paths import find_images
from vistok.data.transforms import croppings
from vistok.files import encodable
from vistok.images.crops import Cropped, Transform, read_sized_crop
from vistok.images.decoding import MOST_PIXELS, AsStored, image_extensions, open_image, read_rgb, size_of
from vistok.images.reader import reader
from vistok.images.rgb import UnreadableImage
from vistok.processes.patience import PATIENCE, in_time


class ImageFiles:
    """Data set of image files: RGB, transformed, uint8.

    Args:
        root: Folder that ``files`` are relative to.
        files: Relative paths.
        transforms: Transforms, applied in order.
        seed: Random choices for an image depend only on (seed, epoch, index).
        replace: True replaces an unreadable image by the next one.
        read: Function from a file to an image for the transforms.
        hashed: True adds the hash of each decoded image.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        transforms: Sequence[Transform],
        seed: int = 0,
        replace: bool = False,
        read: Callable[[Path], Any] = read_rgb,
        hashed: bool = False,
    ):
        self.root, self.files, self.transforms, self.seed = root, list(files), list(transforms), seed
        self.replace, self.read, self.hashed = replace, read, hashed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        skipped: list[str] = []
        while True:
            name = encodable(self.files[index])
            try:
                image, size, sha256 = self._read(epoch, index)
                return Sample(image, name, tuple(skipped), sha256=sha256, size=size)
            except UnreadableImage as error:
                skipped.append(encodable(f"{self.root / self.files[index]}: {error}"))
            if not self.replace:
                return Sample(None, name, tuple(skipped))
            if len(skipped) >= min(MOST_REPLACED, len(self)):
                raise UnreadableImage(f"{len(skipped)} images in a row cannot be read, the last is {skipped[-1]}")
            index = (index + 1) % len(self)

    def _read(self, epoch: int, index: int) -> Cropped:
        rng = np.random.default_rng((self.seed, epoch, index))
        return read_sized_crop(self.root / self.files[index], self.read, self.transforms, rng, self.hashed)

    def names(self) -> list[str]:
        return [encodable(file) for file in self.files]

    def sizes(self) -> list[tuple[int, int] | None]:
        return [size_of(self.root / file) for file in self.files]

    def with_transforms(self, transforms: Sequence[Transform], stored: bool = False) -> "ImageFiles":
        read = AsStored(self.read) if stored else self.read
        return ImageFiles(self.root, self.files, transforms, self.seed, self.replace, read, hashed=True)


def folder(
    root: str,
    image_size: int,
    batch_size: int,
    crop: Literal["random", "adm", "center"] = "center",
    resize: int | None = None,
    min_crop: float = 0.8,
    flip: bool = False,
    val_count: int = 0,
    num_workers: int = 0,
    seed: int = 0,
    max_unreadable: float = 0.01,
    decoder: Literal["pillow", "fast"] = "pillow",
    timeout: float = PATIENCE,
    max_pixels: int = MOST_PIXELS,
) -> ImageDataModule:
    """Data module of all images below a folder: JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM and JPEG 2000 files.

    If ``root`` has the subfolders ``train`` and ``val``, these are the splits, and evaluation scores ``val``. Otherwise
    ``val_count`` images, drawn by ``seed``, are held out for validation, and evaluation scores all images.

    Args:
        root: The folder.
        image_size: Height and width of the crops in pixels.
        batch_size: Images in a batch of each process.
        crop: Crop of training images: ``random`` (a random place after ``resize``), ``adm`` (ADM's random scale and
            place, as in LlamaGen) or ``center``. Validation and evaluation use ADM's centre crop, or the centre if
            ``resize`` is 0.
        resize: Short side in pixels before a ``random`` or ``center`` crop; None means ``image_size``, 0 does not
            resize.
        min_crop: Smallest share of the short side that an ``adm`` crop covers, in (0, 1].
        flip: True mirrors each training image with probability 1/2.
        val_count: Number of held-out images if ``root`` has no splits; 0 holds out a twentieth, at most 1,000.
        num_workers: Number of processes that decode images.
        seed: Seed of the held-out images, the order and the augmentation.
        max_unreadable: Largest share of unreadable images in a set, in [0, 1], before an error.
        decoder: Decoder of training images: ``pillow``, or ``fast`` (see ``read_fast``), within one grey level of it.
            Validation and evaluation always use Pillow.
        timeout: Seconds to wait for a batch before an error.
        max_pixels: Number of pixels above which an image counts as unreadable.

    Raises:
        ValueError: The folder does not exist, has no images, or an image is smaller than the crop.
    """
    kind, path, _ = find_images(root, "data.root", ("folder", "split"))
    training, center = croppings(crop, image_size, resize, min_crop, flip)
    read = reader(max_pixels=max_pixels)
    if kind == "split":
        train, val = list_images(path, "train"), list_images(path, "val")
        test = val
    else:
        test = list_images(path)
        if val_count < 0:
            raise ValueError(f"data.val_count must be at least 0, not {val_count}")
        count = val_count or min(1000, max(1, len(test) // 20))
        if val_count >= len(test) > 0:
            raise ValueError(f"data.val_count={val_count} leaves none of {len(test)} images to train on")
        held_out = set(np.random.default_rng(seed).permutation(len(test))[:count].tolist())
        train = [name for i, name in enumerate(test) if i not in held_out]
        val = [name for i, name in enumerate(test) if i in held_out]
    for part, files in (("train", train), ("val", val)) if kind == "split" else (("", test),):
        if not files:
            raise ValueError(f"data.root={root}: no images found in {path / part}")
    if resize == 0:
        _refuse_small(path, {*train, *val, *test}, image_size, max_unreadable)
    return ImageDataModule(
        train=ImageFiles(path, train, training, seed, replace=True, read=reader(decoder, max_pixels)),
        val=ImageFiles(path, val, center, read=read),
        test=ImageFiles(path, test, center, read=read),
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        about=encodable(str(path)),
        max_unreadable=max_unreadable,
        timeout=timeout,
    )


def list_images(root: Path, subfolder: str = "") -> list[str]:
    """Image files below ``root / subfolder`` by their extension, relative to ``root``, sorted.

    Raises:
        RuntimeError: The storage does not respond.
    """
    known = image_extensions()
    found = in_time((_images_in(*entry, known) for entry in os.walk(root / subfolder)), PATIENCE)
    return sorted(path.relative_to(root).as_posix() for paths in found for path in paths)


def _images_in(folder: str, _: list[str], names: list[str], known: set[str]) -> list[Path]:
    paths = (Path(folder, name) for name in names)
    return [path for path in paths if path.suffix.lower() in known and path.is_file()]


def _refuse_small(root: Path, files: set[str], size: int, max_unreadable: float) -> None:
    """Refuses a folder with an image smaller than its crop or with too many unreadable ones, by the files' headers."""
    unreadable = []
    for name in sorted(files):
        try:
            with open_image(root / name, max_pixels=sys.maxsize) as image:
                width, height = image.size
        except Exception as error:  # decoders of broken files raise anything
            unreadable.append(f"{root / name}: {type(error).__name__}: {error}")
            continue
        if min(width, height) < size:
            raise ValueError(
                f"{root / name} has {width}x{height} pixels, smaller than the crop of {size}; "
                "leave data.resize unset to enlarge such images"
            )
    if len(unreadable) > max_unreadable * len(files):
        raise UnreadableImage(
            f"{len(unreadable):,} of {len(files):,} images cannot be read, more than data.max_unreadable="
            f"{max_unreadable:g} of them, such as {unreadable[0]}"
        )
