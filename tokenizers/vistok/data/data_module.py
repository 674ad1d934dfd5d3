"""Lightning data module of all sources of images with known length."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from vistok.data.batches import Batch, Images, NamedImages, Sample
from vistok.data.bucket_batches import BucketBatches, BucketSampler
from vistok.data.buckets import AspectBuckets
from vistok.data.loaders import loader, rank_of
from vistok.data.sampler import EndlessSampler, StrideSampler
from vistok.data.skipped import Skipped, by_split
from vistok.images.crops import Transform
from vistok.images.ranges import to_float
from vistok.images.reader import PixelForm
from vistok.images.rgb_view import RGBView
from vistok.processes.patience import PATIENCE


class ImageDataModule(pl.LightningDataModule):
    """Batches (b, 3, H, W) of images in [-1, 1], transferred to the device as uint8.

    Unreadable images are reported once each. In training the next image replaces them; elsewhere they are omitted, so
    that a batch may be smaller, or empty.

    Args:
        train: Training images, read endlessly in a different order in each epoch.
        val: Images for validation during training.
        test: Images that ``eval.py`` scores.
        image_size: Height and width of the images in pixels.
        batch_size: Images in a batch of each process.
        num_workers: Number of processes that decode images; 0 decodes in the training process.
        seed: Seed of the order and the augmentation.
        about: Location of the images, for reports.
        max_unreadable: Largest share of unreadable images in a set, in [0, 1], before an error.
        timeout: Seconds to wait for a batch before an error.
        in_memory: True if no storage is read, so that without workers there is nothing to wait for.
        form: Form in which images are read.
        view: Channels that networks trained on RGB look at; None for 1 or 3 channels.
        notes: Sentences about what is not read, printed before work starts.
        buckets: Aspect buckets of the images for training and validation; None crops all to squares.
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
        form: PixelForm = PixelForm(),
        view: RGBView | None = None,
        notes: Sequence[str] = (),
        buckets: AspectBuckets | None = None,
    ):
        super().__init__()
        self.buckets = buckets
        self.train, self.val, self.test = train, val, test
        self.timeout, self.in_memory = timeout, in_memory
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed
        self.about, self.notes, self.form = about, notes, form
        self.view = view or RGBView(form.channels)
        self.batches, self.images_read = 0, 0  # before a resume: batches, and images of all processes
        self.names: list[str] = []  # names of the images in the last batch
        self.skipped = Skipped(max_unreadable)  # for the test set
        self.skipped_in = by_split(max_unreadable)

    @property
    def unreadable(self) -> set[str]:
        """Unreadable images, each with the reason."""
        return self.skipped.reasons.union(*(skipped.reasons for skipped in self.skipped_in.values()))

    @property
    def sizes(self) -> str:
        """Numbers of images for training and validation, as text.

        Raises:
            ValueError: There are no training images.
        """
        if not len(self.train):
            raise ValueError(
                f"no images are left to train on in {self.about}: it has {len(self.val):,} "
                f"image{'s' * (len(self.val) != 1)}, held out for validation"
            )
        return f"{len(self.train):,} images to train on, {len(self.val):,} held out"

    @property
    def num_test(self) -> int:
        """Number of images that ``eval.py`` scores."""
        return len(self.test)

    def train_dataloader(self) -> DataLoader:
        if self.trainer and self.trainer.lightning_module.batches != self.batches:
            raise ValueError("run.resume= is of a run on shards: it has no position in these images to resume from")
        rank, world_size = rank_of(self.trainer)
        start = self.images_read // (self.batch_size * world_size)
        images, place = self.train, (self.batch_size, self.seed, rank, world_size, start)
        if self.buckets:
            self.buckets.announce(self.train_buckets)
            images = self.buckets.images(self.train, self.train_buckets, True)
            sampler = BucketSampler(self.train_buckets, *place)
        else:
            sampler = EndlessSampler(len(self.train), *place)
        return loader(images, self.batch_size, self.num_workers, self.trainer, sampler, *self._waits)

    @cached_property
    def train_buckets(self) -> np.ndarray:
        """Bucket of each training image (n,)."""
        assert self.buckets
        return self.buckets.assign(self.train, "training", self.skipped_in["training"].limit)

    @cached_property
    def val_buckets(self) -> np.ndarray:
        """Bucket of each validation image (n,)."""
        assert self.buckets
        return self.buckets.assign(self.val, "validation", 1)

    def val_dataloader(self) -> DataLoader:
        if not self.buckets:
            return self._all_of(self.val)
        batches = BucketBatches(self.val_buckets, self.batch_size, *rank_of(self.trainer))
        images = self.buckets.images(self.val, self.val_buckets, False)
        if not batches:
            return self._none()
        return loader(images, 1, self.num_workers, self.trainer, None, *self._waits, batches=batches)

    def test_dataloader(self) -> DataLoader:
        return self._all_of(self.test)

    def scored_names(self) -> list[str]:
        """Names of the images that ``eval.py`` scores."""
        return list(self.test.names())

    @cached_property
    def scored_sizes(self) -> list[tuple[str, tuple[int, int]]]:
        """Name, height and width of the images that ``eval.py`` scores, by their headers, of the readable ones."""
        sizes = zip(self.test.names(), self.test.sizes(), strict=True)
        return [(name, size) for name, size in sizes if size is not None]

    def scored_batches(
        self,
        transforms: Sequence[Transform],
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        stored: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Batches that ``eval.py`` scores: the share of one process of several.

        Args:
            transforms: Transforms of the protocol, which replace those of the test set.
            rank: Rank of this process.
            world_size: Number of processes.
            start: Number of batches already scored.
            stored: True decodes files as they are stored, see ``read_rgb``.
            batch_size: Images in a batch, 1 where sizes differ; None for ``self.batch_size``.
        """
        batch_size = batch_size or self.batch_size
        sampler = StrideSampler(len(self.test), rank, world_size, start * batch_size)
        images = self.test.with_transforms(transforms, stored)
        return iter(loader(images, batch_size, self.num_workers, None, sampler, *self._waits))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.names = list(batch.names)
        split, images = ("training", self.train) if self.trainer.training else ("validation", self.val)
        self.skipped_in[split].note(batch, len(images))
        return batch._replace(images=to_float(batch.images))

    def note(self, batch: Batch, total: int) -> None:
        """Stores the names of a batch of the test set, and reports unreadable images.

        Raises:
            UnreadableImage: Too many of the ``total`` images are unreadable.
        """
        self.names = batch.names
        self.skipped.note(batch, total)

    def state_dict(self) -> dict[str, Any]:
        batches, (_, world_size) = self.trainer.lightning_module.batches, rank_of(self.trainer)
        images_read = self.images_read + (batches - self.batches) * self.batch_size * world_size
        skipped = self.skipped_in["training"].state_dict()  # each validation reads its full set
        state = {
            "batches": batches,
            "seen": images_read,
            "images": len(self.train),
            "seed": self.seed,
            "skipped": skipped,
        }
        return state | ({"buckets": self._digest} if self.buckets else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if (state["images"], state["seed"]) != (len(self.train), self.seed):
            raise ValueError(
                f"the checkpoint is of a run on {state['images']:,} images with run.seed={state['seed']}, not on "
                f"{len(self.train):,} with run.seed={self.seed}: there is no position in their order to resume from"
            )
        if state.get("buckets") != self._digest:
            raise ValueError(
                "the checkpoint is of a run with other data.buckets, or on images of other sizes: there is no position "
                "in their order to resume from"
            )
        self.batches, self.images_read = state["batches"], state["seen"]
        if "skipped" in state:  # earlier checkpoints do not have it
            self.skipped_in["training"].load_state_dict(state["skipped"])

    @cached_property
    def _digest(self) -> str | None:
        return self.buckets.digest(self.train_buckets) if self.buckets else None

    @property
    def _waits(self) -> tuple[float, bool]:
        return self.timeout, self.in_memory

    def _all_of(self, images: Images) -> DataLoader:
        sampler = StrideSampler(len(images), *rank_of(self.trainer))
        if not len(sampler):
            return self._none()
        return loader(images, self.batch_size, self.num_workers, self.trainer, sampler, *self._waits)

    def _none(self) -> DataLoader:
        """Loader of a batch without images: without batches Lightning would skip a validation that others wait in."""
        return loader([Sample(None, "")], 1, 0, self.trainer, in_memory=True)
