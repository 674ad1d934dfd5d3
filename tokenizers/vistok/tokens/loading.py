"""Batches of views of a rank's images, decoded by several workers in a fixed order."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vistok.data.loaders import leave_signals_to_the_parent
from vistok.data.streams import worker_and_count
from vistok.files import encodable
from vistok.images.crops import Transform, read_crop
from vistok.images.decoding import MOST_PIXELS
from vistok.images.reader import PixelForm, reader
from vistok.images.rgb import UnreadableImage
from vistok.processes.patience import PATIENCE
from vistok.processes.patient_loader import PatientLoader
from vistok.tokens.sources import Member, Source
from vistok.tokens.views import VIEWS, views_of


class ViewBatch(NamedTuple):
    """Views of images of one part."""

    part: int
    images: Tensor  # (b, v, c, S, S) uint8, or float in [-1, 1]
    names: list[str]
    labels: list[int]
    skipped: list[str]  # unreadable images, with the reason
    passed_over: list[str]  # members of tars beside the images, which are not read
    captions: list[str] = []  # where they were asked for

    def __len__(self) -> int:
        return len(self.names)


class PartBatches(IterableDataset):
    """Batches of the parts in order; a batch has images of one part only. Worker w of n decodes every n-th batch.

    Args:
        source: The images.
        parts: Numbers of the parts.
        batch_size: Number of images in a batch; the last batch of a part may have fewer.
        transforms: Transforms to a square.
        views: ``none``, ``flip`` or ``ten``.
        image_size: Side of a view in pixels.
        max_pixels: Number of pixels above which an image counts as unreadable.
        form: Form in which images are read.
    """

    def __init__(
        self,
        source: Source,
        parts: Sequence[int],
        batch_size: int,
        transforms: Sequence[Transform],
        views: str,
        image_size: int,
        max_pixels: int = MOST_PIXELS,
        form: PixelForm = PixelForm(),
    ):
        self.source, self.parts, self.batch_size = source, list(parts), batch_size
        self.transforms, self.views, self.image_size = list(transforms), views, image_size
        self.read = reader("pillow", max_pixels, form, "--max-pixels")

    def __iter__(self) -> Iterator[ViewBatch]:
        worker, workers = worker_and_count()
        number = 0
        for part in self.parts:
            members, problem = self.source.members(part), []
            while True:
                chunk: list[Member] = []
                try:
                    for member in islice(members, self.batch_size):
                        chunk.append(member)  # one by one: earlier members are kept if the next one fails
                except UnreadableImage as error:
                    problem = [encodable(str(error))]
                if (chunk or problem) and number % workers == worker:
                    yield self._batch(part, chunk, problem)
                number += 1
                if len(chunk) < self.batch_size:
                    break

    def _batch(self, part: int, members: Sequence[Member], skipped: list[str]) -> ViewBatch:
        images, read, passed_over, captions = [], [], [], []
        for member in members:
            passed_over += member.passed_over
            if not member.name:
                continue
            try:
                image = read_crop(member.open(), self.read, self.transforms, np.random.default_rng(0))
                caption = member.caption() if member.caption else None
                images.append(views_of(image, self.views, self.image_size))
                read.append(member)
                captions += [] if caption is None else [caption]
            except UnreadableImage as error:
                skipped.append(encodable(f"{member.name}: {error}"))
        shape = (0, VIEWS[self.views], 3, self.image_size, self.image_size)
        stacked = torch.stack(images) if images else torch.empty(shape, dtype=torch.uint8)
        names, labels = [member.name for member in read], [member.label for member in read]
        return ViewBatch(part, stacked, names, labels, skipped, passed_over, captions)


def loaded(batches: PartBatches, num_workers: int, pin_memory: bool, timeout: float = PATIENCE) -> DataLoader:
    """Loader of the same batches in the same order, read ahead by ``num_workers`` processes; 0 reads in this process.

    A batch that does not arrive within ``timeout`` seconds is an error.
    """
    if not timeout > 0:
        raise ValueError(f"--timeout={timeout:g} must be more than 0 seconds")
    loader = PatientLoader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        timeout=timeout if num_workers else 0,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    loader.patience = timeout
    return loader
