"""Samples and batches of images."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vistok.images.crops import Transform

MOST_REPLACED = 100  # unreadable images in a row before a training set is given up


class Sample(NamedTuple):
    """One image of a data set."""

    image: Tensor | None  # (3, H, W) uint8; None if it cannot be read and nothing takes its place
    name: str
    skipped: tuple[str, ...] = ()  # images that could not be read, and why
    place: tuple[int, int, int] | None = None  # in a stream: worker, shards and images of the next one that are over


class Batch(NamedTuple):
    """What a loader yields and a training step takes: images alone unless more is asked for."""

    images: Tensor  # (b, 3, H, W) in [-1, 1]; uint8 from a loader. Where some cannot be read b is less, or 0
    labels: Tensor | None = None  # (b,) int64
    captions: Sequence[str] | None = None
    mask: Tensor | None = None  # (b, 1, H, W) bool, True where a pixel is known
    names: Sequence[str] = ()
    skipped: Sequence[str] = ()
    place: tuple[int, int, int] | None = None  # of the last one

    @classmethod
    def of(cls, images: "Batch | Tensor") -> "Batch":
        """A batch as it is, or of bare images."""
        return images if isinstance(images, cls) else cls(images)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch, without those that have no image."""
    read = [sample for sample in samples if sample.image is not None]
    images = torch.stack([sample.image for sample in read]) if read else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    skipped = [reason for sample in samples for reason in sample.skipped]
    names = [sample.name for sample in read]
    return Batch(images, names=names, skipped=skipped, place=samples[-1].place)


class Images(Protocol):
    """A data set. Item (epoch, index) is the same image on every worker and rank."""

    def __getitem__(self, key: tuple[int, int]) -> Sample: ...

    def __len__(self) -> int: ...


class NamedImages(Images, Protocol):
    """A data set whose images can be told apart in a report."""

    def names(self) -> Sequence[str]:
        """What identifies the images: listed and hashed in reports."""

    def with_transforms(self, transforms: Sequence[Transform]) -> "NamedImages":
        """The same images, but for their transforms; pictures that have none stay as they are."""
