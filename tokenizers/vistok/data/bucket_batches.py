"""Batches of images of one bucket each, as functions of seed, position and rank alone."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class BucketSampler(Sampler[tuple[int, int]]):
    """Endless sequence of (epoch, index) pairs, in which each batch is of one bucket, on all ranks of the same.

    A bucket's images follow each other in epochs of their own order, without a shorter last batch. In an epoch of all
    images, bucket b with n images has those batches of N images, over all ranks, that its next n images complete; its
    fewer than N images that remain begin its first batch in a later epoch. An epoch's batches are shuffled. N processes
    together read what one process with an N times larger batch reads.

    The state is the number of batches: after e epochs a bucket has had ``floor(e * n / N)``.

    Args:
        buckets: (n,) bucket of each image.
        batch_size: Images in a rank's batch.
        seed: Seed of the orders.
        rank: Rank of this process.
        world_size: Number of processes.
        start: Number of batches (of each rank) already read; a resumed run continues after them.

    Raises:
        ValueError: There are no images.
    """

    def __init__(
        self, buckets: np.ndarray, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0
    ):
        if not len(buckets):
            raise ValueError("there are no images to train on")
        self.members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self.lengths = np.array([len(members) for members in self.members])
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size = rank, world_size
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # of each bucket: the last epoch, and its order

    def __iter__(self) -> Iterator[tuple[int, int]]:
        together = self.batch_size * self.world_size
        most = (self.start + len(self.members)) * together // int(self.lengths.sum()) + 1  # epochs that hold the start
        begun = bisect_right(range(most + 1), self.start, key=lambda epoch: int(self._batches_before(epoch).sum())) - 1
        skipped = self.start - int(self._batches_before(begun).sum())
        for epoch in itertools.count(begun):
            for bucket, batch in itertools.islice(self._batches_in(epoch), skipped, None):
                first = batch * together + self.rank * self.batch_size
                for place in range(first, first + self.batch_size):
                    own_epoch, at = divmod(place, len(self.members[bucket]))
                    yield own_epoch, int(self._order(bucket, own_epoch)[at])
            skipped = 0

    def _batches_before(self, epoch: int) -> np.ndarray:
        """Number of batches of each bucket before an epoch."""
        return epoch * self.lengths // (self.batch_size * self.world_size)

    def _batches_in(self, epoch: int) -> Iterator[tuple[int, int]]:
        """Bucket of each batch of an epoch, and the number of the bucket's batches before it."""
        done, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        buckets = np.repeat(np.arange(len(done)), after - done)
        for bucket in np.random.default_rng((self.seed, epoch)).permutation(buckets).tolist():
            yield bucket, int(done[bucket])
            done[bucket] += 1

    def _order(self, bucket: int, epoch: int) -> np.ndarray:
        known, order = self._orders.get(bucket, (-1, None))
        if order is None or known != epoch:
            order = np.random.default_rng((self.seed, epoch, bucket, 1)).permutation(self.members[bucket])
            self._orders[bucket] = epoch, order
        return order


class BucketBatches(Sampler[list[tuple[int, int]]]):
    """Batches of every image once, each of one bucket, distributed over ranks without padding.

    Their order is shuffled, always in the same way, so that the first ones are not of the first bucket alone.

    Args:
        buckets: (n,) bucket of each image.
        batch_size: Images in a batch; the last one of a bucket may have fewer.
        rank: Rank of this process.
        world_size: Number of processes.

    Attributes:
        starts: Number of images before each batch, and that of all images of this rank.
    """

    def __init__(self, buckets: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1):
        share = np.argsort(buckets, kind="stable")[rank::world_size]
        batches: list[list[tuple[int, int]]] = []
        for bucket in np.unique(buckets[share]):
            own = [(0, int(index)) for index in share[buckets[share] == bucket]]
            batches += [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
        self.batches = [batches[i] for i in np.random.default_rng(0).permutation(len(batches))]
        self.starts = [0, *itertools.accumulate(map(len, self.batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
