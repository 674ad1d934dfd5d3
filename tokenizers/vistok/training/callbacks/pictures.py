"""Pictures of a run: reconstructions and codebook usage."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vistok.data.batches import Batch
from vistok.data.bucket_batches import BucketBatches
from vistok.files import atomic_write
from vistok.images.ranges import to_uint8
from vistok.plots.picture_rows import reconstruction_grid
from vistok.training.codebook_plot import codebook_plot


class Pictures(pl.Callback):
    """Writes ``reconstructions.png`` and ``codebook.png`` at every validation, and passes them to the loggers.

    The images are spread evenly over the validation set and are the same every time; of a stream they are the first
    ones.

    Args:
        folder: Folder of the pictures.
        columns: Number of images.
    """

    def __init__(self, folder: Path, columns: int = 6):
        self.folder, self.columns = folder, columns
        self.pairs: list[tuple[Tensor, Tensor]] = []  # original and reconstruction, uint8
        self.keep: list[Tensor] = []  # for a dynamic head: positions of these that are tokens

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pairs, self.keep = [], []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], batch: Batch, index: int
    ) -> None:
        loader = trainer.val_dataloaders
        if outputs is None:
            return
        images = Batch.of(batch).images
        if isinstance(loader.dataset, IterableDataset):
            chosen = list(range(min(self.columns - len(self.pairs), len(images))))
        else:
            starts, batches = starts_of(loader), trainer.num_val_batches[0]
            first, total = starts(index), starts(batches)
            columns = min(self.columns, total)
            indices = {i * total // columns for i in range(columns)}
            chosen = [i - first for i in sorted(indices) if first <= i < first + len(images)]
        pictures = (pl_module.view.picture(to_uint8(side[chosen])) for side in (images, outputs["reconstruction"]))
        self.pairs += zip(*pictures, strict=True)
        self.keep += [] if outputs["keep"] is None else outputs["keep"][chosen]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = pl_module.metrics.usage.counts  # of all ranks, since the validation has ended
        if not trainer.is_global_zero or not self.pairs:
            return
        images, reconstructions = zip(*self.pairs, strict=True)
        metrics = trainer.callback_metrics
        psnr, baseline = metrics["val/psnr"], metrics["val/psnr_bicubic"]
        caption = f"after {pl_module.updates:,} updates: PSNR {psnr:.2f} dB (bicubic baseline {baseline:.2f} dB)"
        pictures = {
            "reconstructions": reconstruction_grid(images, reconstructions, caption, self.keep),
            "codebook": codebook_plot(counts, [part.name for part in pl_module.metrics.usage.parts]),
        }
        for name, picture in pictures.items():
            with atomic_write(self.folder / f"{name}.png") as file:
                picture.save(file, "PNG")
        for logger in trainer.loggers:
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            if isinstance(logger, WandbLogger):
                for name, picture in pictures.items():
                    logger.log_image(name, [picture], step=step)
                _log_histograms(logger, counts, step)
            elif isinstance(logger, TensorBoardLogger):
                for name, picture in pictures.items():
                    logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def starts_of(loader: DataLoader) -> Callable[[int], int]:
    """Function from the number of a loader's batches to the number of images in as many from the first."""
    if isinstance(loader.batch_sampler, BucketBatches):
        return loader.batch_sampler.starts.__getitem__
    return lambda batches: min(batches * loader.batch_size, len(loader.sampler))


def _log_histograms(logger: WandbLogger, counts: Sequence[Tensor], step: int) -> None:
    import wandb

    for i, of_codebook in enumerate(counts):
        histogram = np.histogram(np.log10(of_codebook.cpu().numpy() + 1.0), bins=64)
        logger.experiment.log({f"codebook_{i}/log10_counts": wandb.Histogram(np_histogram=histogram)}, commit=False)
