"""Images of a folder."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistok.data.batches import MOST_REPLACED, Sample
from vistok.data.class_folders import ClassFolders, class_folders
from vistok.data.data_module import ImageDataModule
from vistok.data.folder_listing import list_images, nothing_found
from vistok.data.folder_splits import Split, split_of
from vistok.data.image_paths import find_images
from vistok.data.random_masks import kind_of_mask, mask_of
from vistok.data.transforms import croppings
from vistok.data.value_ranges import ValueRange, asked_range, unused_note, value_range
from vistok.files import encodable
from vistok.images.crops import Cropped, Transform, read_sized_crop
from vistok.images.decoding import MOST_PIXELS, AsStored, open_image, read_rgb, size_of
from vistok.images.reader import PixelForm, reader
from vistok.images.rgb import UnreadableImage
from vistok.images.rgb_view import rgb_view
from vistok.images.values import read_values
from vistok.processes.patience import PATIENCE

VALUES = (".dcm", ".dicom", ".npy")  # extensions of files that are not 8-bit RGB; the last one only without others
DEEP = (".png", ".tif", ".tiff")  # of files that may have 16 bits


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
        mask: Kind of the mask of each image, see ``random_masks``; None draws none.
        classes: Classes of the images, for labels; None gives none.
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
        mask: str | None = None,
        classes: ClassFolders | None = None,
    ):
        self.root, self.files, self.transforms, self.seed = root, list(files), list(transforms), seed
        self.replace, self.read, self.hashed = replace, read, hashed
        self.mask, self.classes = mask, classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        skipped: list[str] = []
        while True:
            name = encodable(self.files[index])
            try:
                image, size, sha256 = self._read(epoch, index)
                label = self.classes.of(self.files[index]) if self.classes else None
                mask = mask_of(self.mask, (self.seed, epoch, index), image)
                return Sample(image, name, tuple(skipped), sha256=sha256, size=size, label=label, mask=mask)
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
        return ImageFiles(self.root, self.files, transforms, self.seed, self.replace, read, True, None, self.classes)


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
    channels: int = 3,
    range: Any = None,
    rgb_bands: Sequence[int] | None = None,
    mask: str | None = None,
    labels: bool = False,
    resize_filter: Literal["bicubic", "nearest"] = "bicubic",
) -> ImageDataModule:
    """Data module of all images below a folder: JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM and JPEG 2000 files.

    DICOM files are read too, and ``.npy`` files where there are no others.

    Subfolders such as ``train``, ``validation`` and ``test`` are the splits (see ``folder_splits``). Evaluation scores
    the validation images, or else the test images, which are never trained on. Where there are no images for
    validation, ``val_count`` of the training images, drawn by ``seed``, are held out; without splits evaluation scores
    all images.

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
        val_count: Number of held-out images if ``root`` has none for validation; 0 holds out a twentieth, at most
            1,000.
        num_workers: Number of processes that decode images.
        seed: Seed of the held-out images, the order and the augmentation.
        max_unreadable: Largest share of unreadable images in a set, in [0, 1], before an error.
        decoder: Decoder of training images: ``pillow``, or ``fast`` (see ``read_fast``), within one grey level of it.
            Validation and evaluation always use Pillow.
        timeout: Seconds to wait for a batch before an error.
        max_pixels: Number of pixels above which an image counts as unreadable.
        channels: Number of channels of the images, see ``images.bands``.
        range: Values in the files that become -1 and 1: ``[LOW, HIGH]``, ``auto`` measures them on the training
            images, ``dtype`` or None takes 0 and the largest value of the files' type.
        rgb_bands: Channels, counted from 0, that networks trained on RGB look at; None for 1 or 3 channels.
        mask: Kind of the random masks of training and validation images: ``box``, ``irregular`` (strokes of a brush) or
            None. A mask depends only on (seed, epoch, index); those of validation images are always the same.
        labels: True gives each image the number of its class: the top-level folders of the images, in sorted order.
        resize_filter: ``bicubic``, or ``nearest`` for pixel art, in training and validation; the protocols of an
            evaluation have their own.

    Raises:
        ValueError: The folder does not exist, has no images, or an image is smaller than the crop.
    """
    _, path, _ = find_images(root, "data.root", ("folder", "split"))
    training, center = croppings(crop, image_size, resize, min_crop, flip, resize_filter)
    asked, mask = asked_range(range), kind_of_mask(mask)
    split = split_of(path)
    train = _images_of(path, split.train if split else "", root)
    if split and split.val:
        test = val = _images_of(path, split.val, root)
    else:
        test = _images_of(path, split.test, root) if split and split.test else train
        train, val = held_out(train, val_count, seed)
    as_values = any(name.lower().endswith(VALUES) for name in (*train, *val, *test))
    measure = asked == "auto" or (asked is None and bool(train) and train[0].lower().endswith(DEEP))
    read_file = functools.partial(read_values, max_pixels=max_pixels, argument="data.max_pixels")
    paths = [path / name for name in train] if measure else []
    notes, found = _notes(path, split), ValueRange(None)
    if asked is not None:
        found = value_range(asked, paths, read_file)
    elif measure:
        notes.append(unused_note(paths, read_file))
    notes += [found.note]
    form = PixelForm(channels, found.low_high, as_values)
    classes = class_folders([*train, *val, *test], bool(split), f"data.root={root}") if labels else None
    read = reader(max_pixels=max_pixels, pixels=form)
    if resize == 0:
        files = {name for name in (*train, *val, *test) if not name.lower().endswith(VALUES)}
        _refuse_small(path, files, image_size, max_unreadable)
    return ImageDataModule(
        train=ImageFiles(path, train, training, seed, True, reader(decoder, max_pixels, form), False, mask, classes),
        val=ImageFiles(path, val, center, seed, False, read, True, mask, classes),
        test=ImageFiles(path, test, center, read=read, classes=classes),
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        about=encodable(str(path)),
        max_unreadable=max_unreadable,
        timeout=timeout,
        notes=[note for note in notes if note],
        form=form,
        view=rgb_view(channels, rgb_bands),
    )


def held_out(files: Sequence[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """Splits files into those to train on and ``count`` that are held out, drawn by ``seed``, both in their order.

    Raises:
        ValueError: ``count`` is negative, or nothing is left to train on.
    """
    if count < 0:
        raise ValueError(f"data.val_count must be at least 0, not {count}")
    if count >= len(files) > 0:
        raise ValueError(f"data.val_count={count} leaves none of {len(files)} images to train on")
    count = count or min(1000, max(1, len(files) // 20))
    chosen = set(np.random.default_rng(seed).permutation(len(files))[:count].tolist())
    return (
        [name for i, name in enumerate(files) if i not in chosen],
        [name for i, name in enumerate(files) if i in chosen],
    )


def _images_of(path: Path, subfolder: str, root: str) -> list[str]:
    files = list_images(path, subfolder, VALUES[:-1]) or list_images(path, subfolder, VALUES[-1:])
    if not files:
        raise ValueError(f"data.root={root}: {nothing_found(path, subfolder)}")
    return files


def _notes(path: Path, split: Split | None) -> list[str]:
    """Folders that are not read."""
    if split is None:
        return []
    notes = []
    if split.val and split.test:
        notes.append(f"{path / split.test} is neither trained on nor scored; data.root={path / split.test} scores it")
    if split.others:
        notes.append(f"not read beside {split.names}: {', '.join(str(path / name) for name in split.others)}")
    return list(map(encodable, notes))


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
