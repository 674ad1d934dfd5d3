"""The Lightning data module that every source of images shares."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from vistok.data.batches import Batch, Images, NamedImages, Sample
from vistok.data.loaders import loader, rank_of
from vistok.data.sampler import EndlessSampler, StrideSampler
from vistok.data.skipped import Skipped, by_split
from vistok.images.crops import Transform
from vistok.images.ranges import to_float
from vistok.processes.patience import PATIENCE


class ImageDataModule(pl.LightningDataModule):
    """Batches (b, 3, H, W) of images in [-1, 1]. They travel to the device as uint8.

    Images that cannot be read are named once. In training another one takes their place, elsewhere they are left out,
    so that a batch may be smaller, or empty.

    Args:
        train: Endlessly, in an order of its own for each epoch.
        val: For validation during training.
        test: What ``eval.py`` scores.
        image_size: Height and width of the images.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode images; 0 decodes in the training process.
        seed: Of the order and the augmentation.
        about: Where the images come from, for reports.
        max_unreadable: The share of a set that may be unreadable before the work is stopped.
        timeout: Seconds to wait for a batch before the work is stopped.
        in_memory: Whether no storage is read, so that without workers there is nothing to wait for.
    """

    def __init__(
        self,
        train: Images,
        val: Images,
        test: NamedImages,
        image_size: int,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        about: str = "",
        max_unreadable: float = 0.01,
        timeout: float = PATIENCE,
        in_memory: bool = False,
    ):
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.timeout, self.in_memory = timeout, in_memory
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed
        self.about = about
        self.batches, self.seen = 0, 0  # that a resumed run has had: batches, and images of all processes
        self.names: list[str] = []  # of the images in the last batch
        self.skipped = Skipped(max_unreadable)  # of the test set
        self.skipped_in = by_split(max_unreadable)

    @property
    def unreadable(self) -> set[str]:
        """Images that could not be read, each with the reason."""
        return self.skipped.reasons.union(*(skipped.reasons for skipped in self.skipped_in.values()))

    @property
    def sizes(self) -> str:
        """How much there is to train and to validate on.

        Raises:
            ValueError: There is nothing to train on.
        """
        if not len(self.train):
            raise ValueError(
                f"nothing is left to train on in {self.about}: it has {len(self.val):,} "
                f"image{'s' * (len(self.val) != 1)}, held out for validation"
            )
        return f"{len(self.train):,} images to train on, {len(self.val):,} held out"

    @property
    def num_test(self) -> int:
        """How many images ``eval.py`` scores."""
        return len(self.test)

    def train_dataloader(self) -> DataLoader:
        if self.trainer and self.trainer.lightning_module.batches != self.batches:
            raise ValueError("ckpt= is of a run on shards: it has no place in these images to go on from")
        rank, world_size = rank_of(self.trainer)
        start = self.seen // (self.batch_size * world_size)
        sampler = EndlessSampler(len(self.train), self.batch_size, self.seed, rank, world_size, start)
        return loader(self.train, self.batch_size, self.num_workers, self.trainer, sampler, *self._waits)

    def val_dataloader(self) -> DataLoader:
        return self._all_of(self.val)

    def test_dataloader(self) -> DataLoader:
        return self._all_of(self.test)

    def scored_batches(
        self, transforms: Sequence[Transform], rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """What ``eval.py`` scores: the share of one process of several.

        Args:
            transforms: Of the protocol, in place of the test set's own.
            rank: This process.
            world_size: Number of processes.
            start: Batches that are over.
        """
        sampler = StrideSampler(len(self.test), rank, world_size, start * self.batch_size)
        images = self.test.with_transforms(transforms)
        return iter(loader(images, self.batch_size, self.num_workers, None, sampler, *self._waits))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.names = list(batch.names)
        split, images = ("training", self.train) if self.trainer.training else ("validation", self.val)
        self.skipped_in[split].note(batch, len(images))
        return batch._replace(images=to_float(batch.images))

    def note(self, batch: Batch, total: int) -> None:
        """Keep the names of a batch of the test set, and say which images could not be read.

        Raises:
            UnreadableImage: They are too many of the ``total`` images.
        """
        self.names = batch.names
        self.skipped.note(batch, total)

    def state_dict(self) -> dict[str, Any]:
        batches, (_, world_size) = self.trainer.lightning_module.batches, rank_of(self.trainer)
        seen = self.seen + (batches - self.batches) * self.batch_size * world_size
        skipped = self.skipped_in["training"].state_dict()  # validations read the whole of their set each time
        return {"batches": batches, "seen": seen, "images": len(self.train), "seed": self.seed, "skipped": skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if (state["images"], state["seed"]) != (len(self.train), self.seed):
            raise ValueError(
                f"the checkpoint is of a run on {state['images']:,} images with seed={state['seed']}, not on "
                f"{len(self.train):,} with seed={self.seed}: there is no place in their order to go on from"
            )
        self.batches, self.seen = state["batches"], state["seen"]
        if "skipped" in state:  # earlier checkpoints do not have it
            self.skipped_in["training"].load_state_dict(state["skipped"])

    @property
    def _waits(self) -> tuple[float, bool]:
        return self.timeout, self.in_memory

    def _all_of(self, images: Images) -> DataLoader:
        sampler = StrideSampler(len(images), *rank_of(self.trainer))
        if not len(sampler):  # Lightning would leave this rank out of an evaluation in which the others wait for it
            return loader([Sample(None, "")], 1, 0, self.trainer, in_memory=True)
        return loader(images, self.batch_size, self.num_workers, self.trainer, sampler, *self._waits)
