"""The Lightning data module that every source of images shares."""

import signal
from collections.abc import Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
from rich import get_console
from torch import Tensor
from torch.utils.data import DataLoader

from vistok.data.images import Batch, Sample, UnreadableImage, collate
from vistok.data.sampler import EndlessSampler, StrideSampler
from vistok.pixels import to_float


class Images(Protocol):
    """A data set. Item (epoch, index) is the same image on every worker and rank."""

    def __getitem__(self, key: tuple[int, int]) -> Sample: ...

    def __len__(self) -> int: ...


class NamedImages(Images, Protocol):
    """A data set whose images can be told apart in a report."""

    def names(self) -> Sequence[str]:
        """What identifies the images: listed and hashed in reports."""


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
    ):
        super().__init__()
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f"max_unreadable must be a share in [0, 1], not {max_unreadable}")
        self.train, self.val, self.test = train, val, test
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed
        self.about, self.max_unreadable = about, max_unreadable
        self.batches = 0  # that a resumed run has had
        self.names: list[str] = []  # of the images in the last batch
        self.unreadable: set[str] = set()  # each with the reason

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._rank()
        sampler = EndlessSampler(len(self.train), self.batch_size, self.seed, rank, world_size, self.batches)
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val, StrideSampler(len(self.val), *self._rank()))

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test, StrideSampler(len(self.test), *self._rank()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Tensor:
        self.note(batch, len(self.train if self.trainer.training else self.val))
        return to_float(batch.images)

    def note(self, batch: Batch, total: int) -> None:
        """Keep a batch's names, and say which images could not be read.

        Raises:
            UnreadableImage: They are more than ``max_unreadable`` of the ``total`` images of their set.
        """
        self.names = batch.names
        for reason in batch.skipped:
            if reason not in self.unreadable:
                self.unreadable.add(reason)
                get_console().print(f"skipped: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        if len(self.unreadable) > self.max_unreadable * total:
            first = "\n  ".join(sorted(self.unreadable)[:5])
            raise UnreadableImage(
                f"{len(self.unreadable):,} of {total:,} images cannot be read, more than "
                f"data.max_unreadable={self.max_unreadable:g} of them, such as\n  {first}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.trainer.lightning_module.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]

    def _loader(self, images: Images, sampler: EndlessSampler | StrideSampler) -> DataLoader:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_ignore_interrupt,
            pin_memory=self.trainer is not None and self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        )

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
