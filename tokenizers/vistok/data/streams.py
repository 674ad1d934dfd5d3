"""Images from tar shards as streams: an endless one to train on, and one that ends to validate on.

Each process has as many readers as it has workers. Which reader reads what is a function of seed, position and the
numbers of processes and workers, so that a stream can be gone on with at any image.
"""

import copy
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from vistok.data.batches import MOST_REPLACED, Sample
from vistok.data.tars import images_in, shard_name
from vistok.files import encodable
from vistok.images.crops import Transform, read_crop
from vistok.images.decoding import read_rgb
from vistok.images.rgb import UnreadableImage


class Place(NamedTuple):
    """How far a reader has come."""

    shard: int  # its shards that are over
    done: int  # images of the next one that are over


class ShardStream(IterableDataset):
    """Endless: every shard once in epoch 0, in an order of its own, then in epoch 1, and so on without a break.

    Of this sequence of shards a reader takes every n-th, n being the number of readers: each shard of an epoch has
    exactly one reader, and none waits for work, also where shards are fewer than readers. Within a shard the images
    are shuffled in blocks.

    Args:
        urls: Of the shards: paths, and what ``tars.expand`` made of URLs.
        transforms: Applied in order.
        seed: The orders depend on (seed, epoch), what is random about an image on (seed, epoch, shard, index) only.
        block: Images that are held in memory and shuffled.
        read: From a file to an image for the transforms.
    """

    def __init__(
        self,
        urls: Sequence[str],
        transforms: Sequence[Transform],
        seed: int = 0,
        block: int = 1000,
        read: Callable[[BinaryIO], Any] = read_rgb,
    ):
        if block < 1:
            raise ValueError(f"data.block must be at least 1, not {block}")
        self.urls, self.transforms, self.seed, self.block = list(urls), list(transforms), seed, block
        self.read = read
        self.rank, self.world_size, self.batches = 0, 1, 0
        self.places: list[Place] = []  # of the workers; empty at the beginning

    def at(self, rank: int, world_size: int, batches: int = 0, places: Sequence[Place] = ()) -> "ShardStream":
        """This stream for one process of several, going on after so many of its batches.

        Args:
            rank: This process.
            world_size: Number of processes.
            batches: That are over.
            places: Where they have left each worker.
        """
        stream = copy.copy(self)
        stream.rank, stream.world_size, stream.batches, stream.places = rank, world_size, batches, list(places)
        return stream

    def order(self) -> str:
        """A digest of all that a place depends on."""
        parts = [*map(shard_name, self.urls), str(self.seed), str(self.block)]
        return hashlib.sha256(encodable("\n".join(parts)).encode()).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        worker, workers = worker_and_count()
        worker = (worker + self.batches) % workers  # batch n is worker n % workers', and a new loader begins with its 0
        reader, readers = worker * self.world_size + self.rank, workers * self.world_size
        first, done = self.places[worker] if self.places else Place(0, 0)
        skipped: list[str] = []  # since the last image
        barren = 0  # shards in a row
        for shard in itertools.count(first):
            epoch, at = divmod(reader + shard * readers, len(self.urls))
            number = int(np.random.default_rng((self.seed, epoch)).permutation(len(self.urls))[at])
            barren = 0 if done else barren + 1
            for i, sample in enumerate(self._shard(epoch, number, done), done + 1):
                skipped += sample.skipped
                if sample.image is not None:
                    barren = 0
                    yield sample._replace(skipped=tuple(skipped), place=(worker, shard, i))
                    skipped = []
                elif len(skipped) >= MOST_REPLACED:
                    raise UnreadableImage(f"{len(skipped)} images in a row cannot be read, the last is {skipped[-1]}")
            if barren >= len(self.urls):
                last = f"; the last is {skipped[-1]}" if skipped else ""
                raise UnreadableImage(f"{barren} shards in a row have no image that can be read{last}")
            done = 0

    def _shard(self, epoch: int, number: int, done: int) -> Iterator[Sample]:
        """The images of a shard in their order, but for the first ``done``; what ends it early, if anything does."""
        url = self.urls[number]
        members = enumerate(images_in(url))
        for block in itertools.count():
            held, problem = [], ()
            try:
                for member in itertools.islice(members, self.block):
                    held.append(member)  # one by one: they are kept where the next one fails
            except UnreadableImage as error:
                problem = (encodable(str(error)),)
            order = np.random.default_rng((self.seed, epoch, number, block)).permutation(len(held))
            for at in order[max(0, done - block * self.block) :]:
                index, (name, data) = held[at]
                rng = np.random.default_rng((self.seed, epoch, number, index))
                yield decode(url, name, data, self.transforms, rng, self.read)
            if problem:
                yield Sample(None, encodable(shard_name(url)), problem)
            if len(held) < self.block:
                return


class ShardImages(IterableDataset):
    """Every image of some shards once, shared among the readers of all processes; nothing is padded.

    Readers are dealt to shards in turn. Where they are more than the shards, those of one shard all read it and each
    decodes its part; where they are fewer, a reader has several shards to itself. So a shard is read by as few of them
    as can be.

    Args:
        urls: Of the shards, as in ``ShardStream``.
        transforms: Applied in order; they draw nothing.
        read: From a file to an image for the transforms.
    """

    def __init__(
        self, urls: Sequence[str], transforms: Sequence[Transform], read: Callable[[BinaryIO], Any] = read_rgb
    ):
        self.urls, self.transforms, self.read = list(urls), list(transforms), read
        self.rank, self.world_size = 0, 1

    def with_transforms(self, transforms: Sequence[Transform]) -> "ShardImages":
        """The same images with other transforms."""
        return ShardImages(self.urls, transforms, self.read)

    def at(self, rank: int, world_size: int) -> "ShardImages":
        """The share of one process of several."""
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
                for index, (name, data) in enumerate(images_in(url)):
                    if index % among == reader // len(self.urls):
                        yield decode(url, name, data, self.transforms, rng, self.read)
            except UnreadableImage as error:
                yield Sample(None, encodable(shard_name(url)), (encodable(str(error)),))


def decode(
    url: str,
    name: str,
    data: bytes,
    transforms: Sequence[Transform],
    rng: np.random.Generator,
    read: Callable[[BinaryIO], Any] = read_rgb,
) -> Sample:
    """The image in the bytes of a shard's member; if there is none, the reason."""
    known = encodable(f"{shard_name(url)}:{name}")
    try:
        return Sample(read_crop(io.BytesIO(data), read, transforms, rng), known)
    except UnreadableImage as error:
        return Sample(None, known, (encodable(f"{url}:{name}: {error}"),))


def worker_and_count() -> tuple[int, int]:
    """This loader process, and how many there are; without any the training process counts as one."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
