"""Entropies of image regions, from which the thresholds of an entropy router are computed."""

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from vistok.data import ImageDataModule
from vistok.data.loaders import loader
from vistok.data.shards import Data
from vistok.images.ranges import to_float
from vistok.quantizers.routers import patch_entropy


def region_entropies(data: Data, patch: int, low: float, high: float, images: int, num_workers: int = 0) -> np.ndarray:
    """Entropy in nats of every region of training images, float32.

    Args:
        data: Data module with the training images.
        patch: Side of a region in pixels.
        low: Pixel value of the first bin.
        high: Pixel value of the last bin.
        images: Largest number of images, spread evenly over the set; of shards the first ones.
        num_workers: Number of processes that decode images.
    """
    found, left = [], images
    batches = _batches(data, images, num_workers)
    for batch in track(batches, description="entropies", console=Console(), transient=True):
        found.append(patch_entropy(to_float(batch.images[:left]), patch, low, high).flatten())
        left -= len(batch.images)
        if left <= 0:
            break
    return torch.cat(found).numpy()


def _batches(data: Data, images: int, num_workers: int) -> DataLoader:
    if not isinstance(data, ImageDataModule):
        return loader(data.val.at(0, 1), data.batch_size, num_workers, None, timeout=data.timeout)
    total = len(data.train)
    count = min(images, total)
    keys = [(0, i * total // count) for i in range(count)]
    return loader(data.train, data.batch_size, num_workers, None, keys, data.timeout, data.in_memory)
