"""Streams of images from shards: an endless one for training, and a finite one for validation.

Each process has one reader for each worker. A reader's images are a function of seed, position and the numbers of
processes and workers, so that a stream can be resumed at any image.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from vistok.data.batches import MOST_REPLACED, Sample
from vistok.data.random_masks import mask_of
from vistok.data.shard_formats import images_in, names_in
from vistok.data.shard_image import ShardContent, ShardImage
from vistok.data.tars import Url, shard_name
from vistok.files import encodable, sha256_of_lines
from vistok.images.crops import Transform, read_sized_crop
from vistok.images.decoding import AsStored, read_rgb
from vistok.images.rgb import UnreadableImage


class Place(NamedTuple):
    """Progress of a reader."""

    shard: int  # number of finished shards
    done: int  # number of finished images in the next shard


class ShardStream(IterableDataset):
    """Endless stream: every shard once in epoch 0, in a random order, then in epoch 1, and so on without a break.

    A reader takes every n-th shard of this sequence, where n is the number of readers: each shard of an epoch has
    exactly one reader, and no reader is idle, even if there are fewer shards than readers. Within a shard the images
    are shuffled in blocks.

    Args:
        urls: Shards: paths, and the URLs that ``tars.expand`` returned.
        transforms: Transforms, applied in order.
        seed: Orders depend on (seed, epoch); random choices for an image only on (seed, epoch, shard, index).
        block: Number of images that are held in memory and shuffled.
        read: Function from a file to an image for the transforms.
        mask: Kind of the mask of each image, see ``random_masks``; None draws none.
        labels: True reads the label of each image: ``KEY.cls`` in a tar, a column of a parquet file.
        captions: True reads the caption of each image: ``KEY.txt`` in a tar, a column of a parquet file.
        columns: The user's ``data.columns``: columns of parquet files by their roles.
    """

    def __init__(
        self,
        urls: Sequence[str],
        transforms: Sequence[Transform],
        seed: int = 0,
        block: int = 1000,
        read: Callable[[BinaryIO], Any] = read_rgb,
        mask: str | None = None,
        labels: bool = False,
        captions: bool = False,
        columns: Mapping[str, str] | None = None,
    ):
        if block < 1:
            raise ValueError(f"data.block must be at least 1, not {block}")
        self.urls, self.transforms, self.seed, self.block = list(urls), list(transforms), seed, block
        self.read, self.mask, self.labels, self.captions = read, mask, labels, captions
        self.content = ShardContent.of(labels, captions, columns)
        self.rank, self.world_size, self.batches = 0, 1, 0
        self.places: list[Place] = []  # places of the workers; empty at the start

    def at(self, rank: int, world_size: int, batches: int = 0, places: Sequence[Place] = ()) -> "ShardStream":
        """This stream for one process of several, resumed after a number of its batches.

        Args:
            rank: Rank of this process.
            world_size: Number of processes.
            batches: Number of batches already read.
            places: Place of each worker after them.
        """
        stream = copy.copy(self)
        stream.rank, stream.world_size, stream.batches, stream.places = rank, world_size, batches, list(places)
        return stream

    def order(self) -> str:
        """Hash of everything that a place depends on."""
        return sha256_of_lines([*map(shard_name, self.urls), str(self.seed), str(self.block)])

    def __iter__(self) -> Iterator[Sample]:
        worker, workers = worker_and_count()
        worker = (worker + self.batches) % workers  # worker n % workers has batch n; a new loader starts at 0
        reader, readers = worker * self.world_size + self.rank, workers * self.world_size
        first, done = self.places[worker] if self.places else Place(0, 0)
        skipped: list[str] = []  # unreadable images since the last readable one
        passed_over: list[str] = []
        empty_shards = 0  # consecutive shards without readable images
        for shard in itertools.count(first):
            epoch, at = divmod(reader + shard * readers, len(self.urls))
            number = int(np.random.default_rng((self.seed, epoch)).permutation(len(self.urls))[at])
            empty_shards = 0 if done else empty_shards + 1
            for i, sample in enumerate(self._shard(epoch, number, done), done + 1):
                skipped += sample.skipped
                passed_over += sample.passed_over
                if sample.image is not None:
                    empty_shards = 0
                    place = (worker, shard, i)
                    yield sample._replace(skipped=tuple(skipped), place=place, passed_over=tuple(passed_over))
                    skipped, passed_over = [], []
                elif len(skipped) >= MOST_REPLACED:
                    raise UnreadableImage(f"{len(skipped)} images in a row cannot be read, the last is {skipped[-1]}")
            if empty_shards >= len(self.urls):
                last = f"; the last is {skipped[-1]}" if skipped else ""
                raise UnreadableImage(f"{empty_shards} shards in a row have no readable image{last}")
            done = 0

    def _shard(self, epoch: int, number: int, done: int) -> Iterator[Sample]:
        """Images of a shard in order, without the first ``done``; then the error that ended the shard early, if any."""
        url = self.urls[number]
        members = enumerate(images_in(url, self.content))
        for block in itertools.count():
            in_block, problem = [], ()
            try:
                for member in itertools.islice(members, self.block):
                    in_block.append(member)  # one by one: earlier members are kept if the next one fails
            except UnreadableImage as error:
                problem = (encodable(str(error)),)
            order = np.random.default_rng((self.seed, epoch, number, block)).permutation(len(in_block))
            for at in order[max(0, done - block * self.block) :]:
                index, member = in_block[at]
                key = (self.seed, epoch, number, index)
                rng, beside = np.random.default_rng(key), (self.labels, self.captions)
                sample = decode(url, member, self.transforms, rng, self.read, False, *beside)
                yield with_mask(sample, self.mask, key)
            if problem:
                yield Sample(None, encodable(shard_name(url)), problem)
            if len(in_block) < self.block:
                return


class ShardImages(IterableDataset):
    """Every image of several shards once, distributed over the readers of all processes without padding.

    Readers are assigned to shards in turn. If there are more readers than shards, all readers of a shard read it and
    each decodes its part; otherwise a reader has several shards of its own. Hence each shard is read by as few readers
    as possible.

    Args:
        urls: Shards, as in ``ShardStream``.
        transforms: Transforms without randomness, applied in order.
        read: Function from a file to an image for the transforms.
        hashed: True adds the hash of each decoded image.
        mask: As in ``ShardStream``; the mask of an image is always the same.
        labels: As in ``ShardStream``.
        captions: As in ``ShardStream``.
        columns: As in ``ShardStream``.
    """

    def __init__(
        self,
        urls: Sequence[str],
        transforms: Sequence[Transform],
        read: Callable[[BinaryIO], Any] = read_rgb,
        hashed: bool = False,
        mask: str | None = None,
        labels: bool = False,
        captions: bool = False,
        columns: Mapping[str, str] | None = None,
    ):
        self.urls, self.transforms, self.read, self.hashed = list(urls), list(transforms), read, hashed
        self.mask, self.labels, self.captions = mask, labels, captions
        self.content = ShardContent.of(labels, captions, columns)
        self.rank, self.world_size = 0, 1

    def with_transforms(self, transforms: Sequence[Transform], stored: bool = False) -> "ShardImages":
        """The same images with other transforms, and with the hash of each, for an evaluation.

        ``stored`` decodes them as they are stored, see ``read_rgb``.
        """
        read = AsStored(self.read) if stored else self.read
        return ShardImages(self.urls, transforms, read, True, None, self.labels, self.captions, self.content.columns)

    def names(self) -> list[str] | None:
        """Names of all images; None if a shard is behind a URL or compressed, so that they are not known in advance."""
        names: list[str] = []
        try:
            for url in self.urls:
                if isinstance(url, Url):
                    return None
                names += [encodable(f"{shard_name(url)}:{name}") for name in names_in(Path(url), self.content)]
        except UnreadableImage:
            return None
        return names

    def at(self, rank: int, world_size: int) -> "ShardImages":
        """Share of one process of several."""
        images = copy.copy(self)
        images.rank, images.world_size = rank, world_size
        return images

    def __iter__(self) -> Iterator[Sample]:
        worker, workers = worker_and_count()
        reader, readers = worker * self.world_size + self.rank, workers * self.world_size
        rng = np.random.default_rng(0)
        shared = max(readers, len(self.urls))
        for number in range(reader % len(self.urls), len(self.urls), readers):
            url, among = self.urls[number], len(range(number, shared, len(self.urls)))
            try:
                for index, member in enumerate(images_in(url, self.content)):
                    if index % among == reader // len(self.urls):
                        beside = (self.labels, self.captions)
                        sample = decode(url, member, self.transforms, rng, self.read, self.hashed, *beside)
                        yield with_mask(sample, self.mask, (number, index))
            except UnreadableImage as error:
                yield Sample(None, encodable(shard_name(url)), (encodable(str(error)),))


def decode(
    url: str,
    member: ShardImage,
    transforms: Sequence[Transform],
    rng: np.random.Generator,
    read: Callable[[BinaryIO], Any] = read_rgb,
    hashed: bool = False,
    labels: bool = False,
    captions: bool = False,
) -> Sample:
    """Decodes the bytes of an image of a shard; without it, its label or caption the sample has the reason."""
    passed_over = tuple(encodable(f"{shard_name(url)}:{name}") for name in member.passed_over)
    if not member.name:
        return Sample(None, "", passed_over=passed_over)
    known = encodable(f"{shard_name(url)}:{member.name}")
    try:
        file = member.open()
        label = label_of(member) if labels else None
        caption = caption_of(member) if captions else None
        image, size, sha256 = read_sized_crop(file, read, transforms, rng, hashed)
        return Sample(image, known, (), None, sha256, size, passed_over, label, caption=caption)
    except UnreadableImage as error:
        return Sample(None, known, (encodable(f"{url}:{member.name}: {error}"),), passed_over=passed_over)


def label_of(member: ShardImage) -> int:
    """Label of an image, digits in ``KEY.cls``.

    Raises:
        UnreadableImage: There is none, or it is no number.
    """
    try:
        return int(member.label or b"")
    except ValueError:
        what = "it has no label KEY.cls beside it" if member.label is None else f"its label is {member.label[:40]!r}"
        raise UnreadableImage(f"{what}; data.labels=true needs a number") from None


def caption_of(member: ShardImage) -> str:
    """Caption of an image, UTF-8 text in ``KEY.txt``.

    Raises:
        UnreadableImage: There is none, or it is no such text.
    """
    if member.caption is None:
        raise UnreadableImage("it has no caption KEY.txt beside it; data.captions=true needs one")
    try:
        return member.caption.decode().strip()
    except UnicodeDecodeError as error:
        raise UnreadableImage(f"its caption is not UTF-8: {error}") from error


def with_mask(sample: Sample, mask: str | None, key: tuple[int, ...]) -> Sample:
    """Sample with a mask drawn for the key, if it has an image."""
    return sample if sample.image is None else sample._replace(mask=mask_of(mask, key, sample.image))


def worker_and_count() -> tuple[int, int]:
    """Index of this loader process and their number; without workers the training process counts as one."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
