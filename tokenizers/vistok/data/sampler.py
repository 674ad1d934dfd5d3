"""Which image comes when: a function of seed, position and rank alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EndlessSampler(Sampler[tuple[int, int]]):
    """An endless sequence of (epoch, index) pairs, each epoch in its own order.

    All ranks walk the same sequence. Of each global batch a rank takes its own slice, so N processes see together what
    one process with the N-fold batch sees. Epochs run into each other without a short last batch.

    Args:
        length: Number of images.
        batch_size: Images in a rank's batch.
        seed: Of the orders.
        rank: This process.
        world_size: Number of processes.
        start: Batches (of each rank) that are over already: resuming goes on after them.

    Raises:
        ValueError: There are no images.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0):
        if length < 1:
            raise ValueError("nothing is left to train on: there are no images")
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
    """Every index once, shared among ranks by stride; nothing is padded, so all ranks together see each image once.

    Args:
        length: Number of images.
        rank: This process.
        world_size: Number of processes.
        start: Images of this process that are over already.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1, start: int = 0):
        self.indices = range(rank + start * world_size, length, world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)
