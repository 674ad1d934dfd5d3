"""Images from webdataset tar shards."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from vistok.data.batches import Batch
from vistok.data.data_module import ImageDataModule
from vistok.data.loaders import loader, rank_of
from vistok.data.skipped import Skipped, by_split
from vistok.data.streams import Place, ShardImages, ShardStream
from vistok.data.tars import expand
from vistok.data.transforms import AtLeast, croppings
from vistok.distributed.collectives import gather_objects
from vistok.files import encodable
from vistok.images.crops import Transform
from vistok.images.decoding import MOST_PIXELS
from vistok.images.ranges import to_float
from vistok.images.reader import reader
from vistok.processes.patience import PATIENCE


class ShardDataModule(pl.LightningDataModule):
    """Batches (b, 3, H, W) of images in [-1, 1], as ``ImageDataModule`` has them, from streams of unknown length.

    A checkpoint holds the place of each reader after the batches that were trained on, not those read ahead.

    Args:
        train: Endlessly; None can only evaluate.
        val: For validation during training, and what ``eval.py`` scores.
        image_size: Height and width of the images.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode images; 0 decodes in the training process.
        about: Where the images come from, for reports.
        max_unreadable: The share of images that may be unreadable before the work is stopped.
        timeout: Seconds to wait for a batch before the work is stopped.
    """

    num_test = None  # images that eval.py scores: only reading them tells

    def __init__(
        self,
        train: ShardStream | None,
        val: ShardImages,
        image_size: int,
        batch_size: int,
        num_workers: int = 0,
        about: str = "",
        max_unreadable: float = 0.01,
        timeout: float = PATIENCE,
    ):
        super().__init__()
        self.timeout = timeout
        self.train, self.val = train, val
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.about = about
        self.batches = 0  # that a resumed run has had
        self.places = [Place(0, 0)] * max(1, num_workers)  # of this process's workers
        self.names: list[str] = []  # of the images in the last batch
        self.skipped, self.skipped_in = Skipped(max_unreadable), by_split(max_unreadable)

    @property
    def unreadable(self) -> set[str]:
        """Images, or shards, that could not be read, each with the reason."""
        return self.skipped.reasons.union(*(skipped.reasons for skipped in self.skipped_in.values()))

    @property
    def sizes(self) -> str:
        """How much there is to train and to validate on.

        Raises:
            ValueError: There is nothing to train on.
        """
        count = len(self._train().urls)
        return f"{count:,} shard{'s' * (count > 1)} to train on, {len(self.val.urls):,} held out"

    def train_dataloader(self) -> DataLoader:
        batches = self.trainer.lightning_module.batches if self.trainer else self.batches
        if batches != self.batches:
            raise ValueError("ckpt= is of a run on other data: it has no places in shards to go on from")
        stream = self._train().at(*rank_of(self.trainer), self.batches, self.places)
        return loader(stream, self.batch_size, self.num_workers, self.trainer, timeout=self.timeout)

    def val_dataloader(self) -> DataLoader:
        images = self.val.at(*rank_of(self.trainer))
        return loader(images, self.batch_size, self.num_workers, self.trainer, timeout=self.timeout)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def scored_batches(
        self, transforms: Sequence[Transform], rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """What ``eval.py`` scores, as ``ImageDataModule`` has it; batches that are over are read again and left out."""
        images = self.val.with_transforms(transforms).at(rank, world_size)
        batches = loader(images, self.batch_size, self.num_workers, None, timeout=self.timeout)
        return itertools.islice(batches, start, None)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.names = batch.names
        if self.trainer.training:
            worker, shard, done = batch.place
            self.places[worker] = Place(shard, done)
            self.skipped_in["training"].note(batch, None)
            self.skipped_in["validation"].end_pass()
        else:
            self.skipped_in["validation"].note(batch, None)
        return batch._replace(images=to_float(batch.images))

    def note(self, batch: Batch, total: int | None = None) -> None:
        """Keep the names of a batch that ``eval.py`` scores, and say which images could not be read.

        Raises:
            UnreadableImage: They are too many of the ``total`` images, or of those that came by.
        """
        self.names = batch.names
        self.skipped.note(batch, total)

    def state_dict(self) -> dict[str, Any]:
        return {
            "batches": self.trainer.lightning_module.batches,
            "places": gather_objects([list(place) for place in self.places]),
            "order": self._train().order(),
            "skipped": self.skipped_in["training"].state_dict(),  # validations read all of their set each time
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rank, world_size = rank_of(self.trainer)
        places = state["places"]
        processes, workers = len(places), len(places[0])
        if (processes, workers) != (world_size, len(self.places)):
            raise ValueError(
                f"the checkpoint is of a run with processes={processes} data.num_workers={workers}, and goes on with "
                f"these only, not with processes={world_size} data.num_workers={self.num_workers}"
            )
        if state["order"] != self._train().order():
            raise ValueError("the checkpoint is of a run on other data.urls, or with another data.seed or data.block")
        self.batches = state["batches"]
        self.places = [Place(*place) for place in places[rank]]
        if "skipped" in state:  # earlier checkpoints do not have it
            self.skipped_in["training"].load_state_dict(state["skipped"])

    def _train(self) -> ShardStream:
        if self.train is None:
            raise ValueError("data.urls=null: there are no shards to train on")
        return self.train


def shards(
    urls: str | Sequence[str] | None,
    val_urls: str | Sequence[str],
    image_size: int,
    batch_size: int,
    crop: str = "random",
    resize: int | None = None,
    min_crop: float = 0.8,
    flip: bool = False,
    block: int = 1000,
    num_workers: int = 0,
    seed: int = 0,
    max_unreadable: float = 0.01,
    decoder: str = "pillow",
    timeout: float = PATIENCE,
    max_pixels: int = MOST_PIXELS,
) -> ShardDataModule:
    """Images in webdataset tar shards, on disk or behind any URL that webdataset opens.

    Args:
        urls: Shards to train on: one or several, with braces (``{000..011}``) or, for files, ``*``; None can only
            evaluate.
        val_urls: Shards for validation and evaluation.
        image_size: Height and width of the crops, pixels.
        batch_size: Images in a batch of each process.
        crop: For training: ``random``, ``adm`` or ``center``, as in ``folder``.
        resize: Short side before a ``random`` or ``center`` crop; None means ``image_size``, 0 leaves the size alone.
        min_crop: Least share of the short side that an ``adm`` crop covers.
        flip: Mirror every other training image.
        block: Images of a shard that each worker holds in memory and shuffles.
        num_workers: Processes that decode images.
        seed: Of the order and the augmentation.
        max_unreadable: The share of images that may be unreadable before the work is stopped.
        decoder: Of images to train on, as in ``folder``.
        timeout: Seconds to wait for a batch before the work is stopped.
        max_pixels: The largest image; one with more pixels is unreadable.

    Raises:
        ValueError: There is no such shard, or an argument makes no sense.
    """
    training, center = croppings(crop, image_size, resize, min_crop, flip)
    large_enough = [AtLeast(image_size)] * (resize == 0)
    held_out = val_urls if isinstance(val_urls, str) else ", ".join(val_urls)
    train, about = None, held_out
    if urls is not None:
        read = reader(decoder, max_pixels)
        train = ShardStream(expand(urls, "data.urls"), large_enough + training, seed, block, read)
        about = f"{urls if isinstance(urls, str) else ', '.join(urls)}, {held_out} held out"
    return ShardDataModule(
        train=train,
        val=ShardImages(expand(val_urls, "data.val_urls"), large_enough + center, reader(max_pixels=max_pixels)),
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        about=encodable(about),
        max_unreadable=max_unreadable,
        timeout=timeout,
    )


Data = ImageDataModule | ShardDataModule
