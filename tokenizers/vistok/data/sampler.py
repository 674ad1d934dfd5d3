"""Order of images as a function of seed, position and rank alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EndlessSampler(Sampler[tuple[int, int]]):
    """Endless sequence of (epoch, index) pairs, with a different order in each epoch.

    All ranks follow the same sequence. Each rank takes its slice of every global batch, so that N processes together
    read what one process with an N times larger batch reads. Epochs follow each other without a shorter last batch.

    Args:
        length: Number of images.
        batch_size: Images in a rank's batch.
        seed: Seed of the orders.
        rank: Rank of this process.
        world_size: Number of processes.
        start: Number of batches (of each rank) already read; a resumed run continues after them.

    Raises:
        ValueError: There are no images.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0):
        if length < 1:
            raise ValueError("there are no images to train on")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start = rank, world_size, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order_epoch, order = -1, np.empty(0, dtype=np.int64)
        batch = self.start
        while True:
            first = (batch * self.world_size + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.length)
                if epoch != order_epoch:
                    order_epoch, order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
                yield epoch, int(order[place])
            batch += 1


class StrideSampler(Sampler[tuple[int, int]]):
    """Every index once, distributed over ranks by stride without padding: all ranks together read each image once.

    Args:
        length: Number of images.
        rank: Rank of this process.
        world_size: Number of processes.
        start: Number of images of this process already read.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1, start: int = 0):
        self.indices = range(rank + start * world_size, length, world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)
