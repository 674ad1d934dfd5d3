"""Images in aspect buckets: each one is cropped to the size whose aspect ratio is nearest to its own."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vistok.data.batches import Sample
from vistok.data.bucket_sizes import Asked, Shape, bucket_shapes, nearest_bucket
from vistok.distributed.collectives import rank_and_size
from vistok.files import sha256_of_lines
from vistok.images.crops import Transform
from vistok.images.rgb import UnreadableImage
from vistok.processes.node_files import node_value
from vistok.terminal import say

MOST_NAMED = 5  # buckets in a message
MANY = 10_000  # images from which a message says that their sizes are read
CropsOf = Callable[[Shape], tuple[list[Transform], list[Transform]]]


class AspectBuckets:
    """Aspect buckets of a data module.

    Args:
        asked: The user's ``data.buckets``: ``auto``, or a list of [H, W].
        crops_of: Function from a size (H, W) to the transforms of training images and of others.
        source: Text that tells the images from those of other sources, for ``node_value``.

    Attributes:
        shapes: Size (H, W) of each bucket in pixels, after ``choose``.
    """

    def __init__(self, asked: Asked, crops_of: CropsOf, source: str = ""):
        self.asked: Asked = asked
        self.crops_of, self.source = crops_of, source
        self.shapes: tuple[Shape, ...] = ()

    def choose(self, image_size: int, grid: Callable[[int, int, str], Any]) -> None:
        """Determines the sizes; arguments and errors are those of ``bucket_shapes``."""
        self.shapes = bucket_shapes(self.asked, image_size, grid)

    def assign(self, images: Any, part: str, max_unreadable: float) -> np.ndarray:
        """Bucket of each image, by the size in its header, which the first process of a node reads for all.

        Args:
            images: The data set.
            part: Its name, such as ``training``.
            max_unreadable: Largest share of images without a known size, in [0, 1].

        Returns:
            (n,) int64, indices of ``shapes``.

        Raises:
            UnreadableImage: The sizes of more images cannot be read.
        """

        def found() -> list[int]:
            if len(images) >= MANY:
                say(f"reading the sizes of {len(images):,} images", label="buckets     ")
            sizes = images.sizes()
            unknown = [i for i, size in enumerate(sizes) if size is None]
            if len(unknown) > max_unreadable * len(images):
                raise UnreadableImage(
                    f"data.buckets needs the sizes of the images, but those of {len(unknown):,} of {len(images):,} "
                    f"cannot be read from their headers, such as {images.names()[unknown[0]]}"
                )
            return nearest_bucket(sizes, self.shapes).tolist()

        return np.array(node_value(f"buckets {self.source} {part} {self.shapes}", found), dtype=np.int64)

    def images(self, images: Any, buckets: np.ndarray, training: bool) -> "BucketImages":
        """The images, each with the crop of its bucket."""
        return BucketImages(images, buckets, [self.crops_of(shape)[not training] for shape in self.shapes])

    def digest(self, buckets: np.ndarray) -> str:
        """Hash of the sizes and of the bucket of each image."""
        return sha256_of_lines([*(f"{height}x{width}" for height, width in self.shapes), *map(str, buckets)])

    def announce(self, buckets: np.ndarray) -> None:
        """Prints the buckets with the most images, on rank 0."""
        if rank_and_size()[0] == 0:
            counts = np.bincount(buckets, minlength=len(self.shapes))
            used = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
            named = [f"{counts[i]:,} of {self.shapes[i][0]}x{self.shapes[i][1]}" for i in used[:MOST_NAMED]]
            others = f", others in {len(used) - MOST_NAMED} further buckets" if len(used) > MOST_NAMED else ""
            say(f"{', '.join(named)}{others} (height x width)", label="buckets     ")


class BucketImages:
    """Data set of the same images, each cropped to the size of its bucket.

    An image that replaces an unreadable one has the size of that one's bucket, so that a batch has one size.

    Args:
        images: The data set, with ``transforms``.
        buckets: (n,) bucket of each image.
        transforms: Transforms of each bucket.
    """

    def __init__(self, images: Any, buckets: np.ndarray, transforms: Sequence[Sequence[Transform]]):
        self.buckets, self.by_bucket = buckets, []
        for own in transforms:
            copied = copy.copy(images)
            copied.transforms = list(own)
            self.by_bucket.append(copied)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.by_bucket[self.buckets[key[1]]][key]

    def __len__(self) -> int:
        return len(self.buckets)


def buckets_of(asked: Asked | None, crops_of: CropsOf, resize: int | None, source: str) -> AspectBuckets | None:
    """Buckets by the user's ``data.buckets``, checked with ``data.resize``; None without them.

    Raises:
        ValueError: ``resize`` is given too.
    """
    if asked is None:
        return None
    if resize is not None:
        raise ValueError(f"data.resize={resize} is not for data.buckets, which resizes each image to cover its bucket")
    return AspectBuckets(asked, crops_of, source)
