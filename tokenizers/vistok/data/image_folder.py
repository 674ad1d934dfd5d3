"""Images that are listed before they are read, such as those of a folder."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vistok.data.batches import MOST_REPLACED, Sample
from vistok.data.buckets import buckets_of
from vistok.data.data_module import ImageDataModule
from vistok.data.folder_splits import NAMES
from vistok.data.listings.folder_images import VALUES
from vistok.data.listings.listing import Listing, Opened, Wanted
from vistok.data.listings.opening import open_splits
from vistok.data.listings.splits import held_out
from vistok.data.random_masks import kind_of_mask, mask_of
from vistok.data.transforms import croppings
from vistok.data.value_ranges import ValueRange, asked_range, unused_note, value_range
from vistok.files import encodable
from vistok.images.crops import Transform, read_sized_crop
from vistok.images.decoding import MOST_PIXELS, AsStored, open_image, read_rgb, size_of
from vistok.images.reader import PixelForm, reader
from vistok.images.rgb import UnreadableImage
from vistok.images.rgb_view import rgb_view
from vistok.images.tiff import shape_of
from vistok.images.values import read_values
from vistok.processes.node_files import node_value
from vistok.processes.patience import PATIENCE

DEEP = (".png", ".tif", ".tiff")  # of files that may have 16 bits


class ImageFiles:
    """Data set of listed images: RGB, transformed, uint8.

    Args:
        listing: The images.
        transforms: Transforms, applied in order.
        seed: Random choices for an image depend only on (seed, epoch, index).
        replace: True replaces an unreadable image by the next one.
        read: Function from a file to an image for the transforms.
        hashed: True adds the hash of each decoded image; ``once`` only when this process reads it for the first time.
        mask: Kind of the mask of each image, see ``random_masks``; None draws none.
    """

    def __init__(
        self,
        listing: Listing,
        transforms: Sequence[Transform],
        seed: int = 0,
        replace: bool = False,
        read: Callable[[Any], Any] = read_rgb,
        hashed: bool | Literal["once"] = False,
        mask: str | None = None,
    ):
        self.listing, self.transforms, self.seed = listing, list(transforms), seed
        self.replace, self.read, self.hashed, self.mask = replace, read, hashed, mask
        self.read_before: set[int] = set()  # images that were hashed once; a worker reads the same ones in each pass

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        skipped: list[str] = []
        while True:
            name = encodable(self.listing.names[index])
            try:
                rng = np.random.default_rng((self.seed, epoch, index))
                file = self.listing.open(index)
                hashed = self.hashed is True or (self.hashed == "once" and index not in self.read_before)
                image, size, sha256 = read_sized_crop(file, self.read, self.transforms, rng, hashed)
                if hashed and self.hashed == "once":
                    self.read_before.add(index)
                mask = mask_of(self.mask, (self.seed, epoch, index), image)
                label, caption = self.listing.label(index), self.listing.caption(index)
                return Sample(
                    image, name, tuple(skipped), sha256=sha256, size=size, label=label, mask=mask, caption=caption
                )
            except UnreadableImage as error:
                skipped.append(encodable(f"{self.listing.where(index)}: {error}"))
            if not self.replace:
                return Sample(None, name, tuple(skipped))
            if len(skipped) >= min(MOST_REPLACED, len(self)):
                raise UnreadableImage(f"{len(skipped)} images in a row cannot be read, the last is {skipped[-1]}")
            index = (index + 1) % len(self)

    def names(self) -> list[str]:
        return list(map(encodable, self.listing.names))

    def sizes(self) -> list[tuple[int, int] | None]:
        return [self._size(i) for i in range(len(self))]

    def _size(self, index: int) -> tuple[int, int] | None:
        try:
            return size_of(self.listing.open(index))
        except UnreadableImage:
            return None

    def with_transforms(self, transforms: Sequence[Transform], stored: bool = False) -> "ImageFiles":
        read = AsStored(self.read) if stored else self.read
        return ImageFiles(self.listing, transforms, self.seed, self.replace, read, True)


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
    captions: bool = False,
    columns: Mapping[str, str] | None = None,
    resize_filter: Literal["bicubic", "nearest"] = "bicubic",
    buckets: Literal["auto"] | Sequence[Sequence[int]] | None = None,
) -> ImageDataModule:
    """Data module of listed images: those of a folder, a manifest, an ``.npz`` file or a Hugging Face data set.

    Of a folder these are all JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM, JPEG 2000 and DICOM files below it, and
    ``.npy`` files where there are no others. Subfolders such as ``train``, ``validation`` and ``test`` are the splits
    (see ``folder_splits``); other sources have a column or names of splits. Evaluation scores
    the validation images, or else the test images, which are never trained on. Where there are no images for
    validation, ``val_count`` of the training images, drawn by ``seed``, are held out; without splits evaluation scores
    all images.

    Args:
        root: The folder, or another source (see ``image_paths``).
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
        labels: True gives each image the number of its class: that of the source, or the top-level folders of the
            images in sorted order.
        captions: True gives each image its caption: that of the source, or ``NAME.txt`` beside ``NAME.jpg``.
        columns: Names of the columns of a table: ``{image: ..., label: ..., caption: ..., split: ...}``; None finds
            usual names (see ``columns``).
        resize_filter: ``bicubic``, or ``nearest`` for pixel art, in training and validation; the protocols of an
            evaluation have their own.
        buckets: Sizes [H, W] of training and validation images in pixels, each for the images whose aspect ratio is
            nearest; ``auto`` chooses sizes of about ``image_size`` squared pixels; None crops all to squares.

    Raises:
        ValueError: The folder does not exist, has no images, or an image is smaller than the crop.
    """
    crops_of = functools.partial(
        croppings, crop, resize=resize, min_crop=min_crop, flip=flip, resize_filter=resize_filter
    )
    training, center = crops_of(image_size)
    once = f"{root} {val_count} {seed}"  # name of what one process of a node reads for all
    aspect_buckets = buckets_of(buckets, crops_of, resize, once)
    asked, mask = asked_range(range), kind_of_mask(mask)
    wanted = Wanted("needed" if labels else "none", "needed" if captions else "none")
    splits = open_splits(root, "data.root", wanted, columns)
    train, val, test = splits.train, splits.val, splits.to_score()
    if val is None:
        train, val = held_out(train, val_count, seed)
    measure = asked == "auto" or (asked is None and len(train) > 0 and train.names[0].lower().endswith(DEEP))
    read_file = functools.partial(read_values, max_pixels=max_pixels, argument="data.max_pixels")
    notes, found = list(splits.notes), ValueRange(None)
    if asked is not None:
        found = ValueRange.of(node_value(f"range {once} {asked}", lambda: value_range(asked, Opened(train), read_file)))
    elif measure:
        notes.append(node_value(f"unused {once}", lambda: unused_note(Opened(train), read_file)))
    notes += [found.note]
    as_values = node_value(f"values {once}", lambda: any(part.as_values for part in (train, val, test)))
    form = PixelForm(channels, found.low_high, as_values)
    read = reader(max_pixels=max_pixels, pixels=form)
    if resize == 0:
        for name, part in zip(NAMES, splits[:3], strict=True):
            node_value(f"sizes {once} {name} {image_size}", lambda p=part: _refuse_small(p, image_size, max_unreadable))
    return ImageDataModule(
        train=ImageFiles(train, training, seed, True, reader(decoder, max_pixels, form), False, mask),
        val=ImageFiles(val, center, seed, False, read, "once", mask),
        test=ImageFiles(test, center, read=read),
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        about=train.about,
        max_unreadable=max_unreadable,
        timeout=timeout,
        notes=[note for note in notes if note],
        form=form,
        view=rgb_view(channels, rgb_bands),
        buckets=aspect_buckets,
    )


def _refuse_small(images: Listing | None, size: int, max_unreadable: float) -> None:
    """Refuses images of which one is smaller than its crop, or too many are unreadable, by their headers."""
    unreadable = []
    if images is None or not images.single_files and images.as_values:
        return
    for i, name in enumerate(images.names):
        if name.lower().endswith(VALUES):
            continue
        try:
            with open_image(images.open(i), max_pixels=sys.maxsize) as image:
                width, height = image.size
        except Exception as error:  # decoders of broken files raise anything
            if (shape := shape_of(images.open(i))) is None:
                unreadable.append(f"{images.where(i)}: {type(error).__name__}: {error}")
                continue
            height, width, _ = shape
        if min(width, height) < size:
            raise ValueError(
                f"{images.where(i)} has {width}x{height} pixels, smaller than the crop of {size}; "
                "leave data.resize unset to enlarge such images"
            )
    if len(unreadable) > max_unreadable * len(images):
        raise UnreadableImage(
            f"{len(unreadable):,} of {len(images):,} images cannot be read, more than data.max_unreadable="
            f"{max_unreadable:g} of them, such as {unreadable[0]}"
        )
