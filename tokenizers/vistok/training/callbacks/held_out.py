"""Hashes of a run's held-out images, in the record of its split."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vistok.data import split_record
from vistok.data.batches import Batch
from vistok.distributed.collectives import gather_objects


class HeldOutHashes(pl.Callback):
    """Completes the record of the held-out images by the hashes of their pixels, as validations first read them.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.found: dict[str, str] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        batch = Batch.of(batch)
        if batch.hashes:
            self.found |= {name: own for name, own in zip(batch.names, batch.hashes, strict=True) if own}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parts, self.found = gather_objects(self.found), {}
        record = split_record.read(self.folder) if trainer.is_global_zero else None
        if record is None:
            return
        known = {name: own for part in parts for name, own in part.items() if name in record.hashes}
        if record.hashes != (hashes := record.hashes | known):
            split_record.write_hashes(self.folder, record.root, hashes)
