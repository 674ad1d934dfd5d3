"""Samples and batches of images."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vistok.images.crops import Transform

MOST_REPLACED = 100  # consecutive unreadable images after which reading a training set fails


class Sample(NamedTuple):
    """One image of a data set."""

    image: Tensor | None  # (3, H, W) uint8; None if it is unreadable and not replaced
    name: str
    skipped: tuple[str, ...] = ()  # unreadable images, with the reason
    place: tuple[int, int, int] | None = None  # in a stream: worker, finished shards, finished images of the next
    sha256: str = ""  # hash of the decoded image, by pixel_hash, in an evaluation
    size: tuple[int, int] | None = None  # height and width of the file's image, before the transforms
    passed_over: tuple[str, ...] = ()  # members of a tar beside the image, which are not read
    label: int | None = None  # class of the image, where it was asked for
    mask: Tensor | None = None  # (1, H, W) bool, True where a pixel is known; where it was asked for
    caption: str | None = None  # where it was asked for


class Batch(NamedTuple):
    """Batch of a loader and of a training step; only images are required.

    Attributes:
        images: (b, c, H, W) in [-1, 1], or uint8 from a loader. b is smaller if images are unreadable.
        labels: (b,) int64; None without labels.
        captions: Text of each image; None without captions.
        mask: (b, 1, H, W) bool, True where a pixel is known; None if all are.
        names: Name of each image.
        skipped: Images that could not be read, with the reason.
        place: Place of the last sample in a stream.
        hashes: Hash of each decoded image, by ``pixel_hash``; empty text for one that was hashed before.
        sizes: Height and width of each file's image, before the transforms.
        passed_over: Members of tars that are no images, as in ``Sample``.
    """

    images: Tensor
    labels: Tensor | None = None
    captions: Sequence[str] | None = None
    mask: Tensor | None = None
    names: Sequence[str] = ()
    skipped: Sequence[str] = ()
    place: tuple[int, int, int] | None = None
    hashes: Sequence[str] = ()
    sizes: Sequence[tuple[int, int] | None] = ()
    passed_over: Sequence[str] = ()

    @classmethod
    def of(cls, images: "Batch | Tensor") -> "Batch":
        """Returns a batch unchanged, or makes one of an image tensor."""
        return images if isinstance(images, cls) else cls(images)


def collate(samples: Sequence[Sample]) -> Batch:
    """Collates samples to a batch, without those that have no image."""
    read = [sample for sample in samples if sample.image is not None]
    images = torch.stack([sample.image for sample in read]) if read else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    skipped = [reason for sample in samples for reason in sample.skipped]
    names = [sample.name for sample in read]
    hashes = [sample.sha256 for sample in read] if any(sample.sha256 for sample in read) else []
    sizes = [sample.size for sample in read]
    passed_over = [name for sample in samples for name in sample.passed_over]
    place = samples[-1].place
    labels = [sample.label for sample in read if sample.label is not None]
    captions = [sample.caption for sample in read if sample.caption is not None]
    masks = [sample.mask for sample in read if sample.mask is not None]
    return Batch(
        images,
        labels=torch.tensor(labels) if labels else None,
        captions=captions or None,
        mask=torch.stack(masks) if masks else None,
        names=names,
        skipped=skipped,
        place=place,
        hashes=hashes,
        sizes=sizes,
        passed_over=passed_over,
    )


class Images(Protocol):
    """Data set of images. Item (epoch, index) is the same image on every worker and rank."""

    def __getitem__(self, key: tuple[int, int]) -> Sample: ...

    def __len__(self) -> int: ...


class NamedImages(Images, Protocol):
    """Data set whose images have names for reports."""

    def names(self) -> Sequence[str]:
        """Names of the images, listed and hashed in reports."""

    def sizes(self) -> Sequence[tuple[int, int] | None]:
        """Height and width of each upright image before the transforms, by its header; None for an unreadable one."""

    def with_transforms(self, transforms: Sequence[Transform], stored: bool = False) -> "NamedImages":
        """Data set of the same images with other transforms, for an evaluation: samples may have their ``sha256``.

        Crops without transforms are unchanged.

        Args:
            transforms: Transforms, applied in order.
            stored: True decodes files as they are stored (see ``read_rgb``); no effect on images that are not files.
        """
