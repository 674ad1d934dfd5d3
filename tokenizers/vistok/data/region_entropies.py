"""Entropies of the regions of images, from which thresholds of an entropy router are taken."""

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from vistok.data import ImageDataModule
from vistok.data.loaders import loader
from vistok.images.ranges import to_float
from vistok.quantizers.routers import patch_entropy


def region_entropies(
    data: ImageDataModule, patch: int, low: float, high: float, images: int, num_workers: int = 0
) -> np.ndarray:
    """The entropy in nats of every region of training images, float32.

    Args:
        data: Whose training images.
        patch: Pixels along each side of a region.
        low: Pixel value of the first bin.
        high: Pixel value of the last one.
        images: At most so many, spread evenly over all.
        num_workers: Processes that decode images.
    """
    total = len(data.train)
    count = min(images, total)
    keys = [(0, i * total // count) for i in range(count)]
    batches = loader(data.train, data.batch_size, num_workers, None, keys, data.timeout, data.in_memory)
    found = [
        patch_entropy(to_float(batch.images), patch, low, high).flatten()
        for batch in track(batches, description="entropies", console=Console(), transient=True)
    ]
    return torch.cat(found).numpy()
