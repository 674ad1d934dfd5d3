"""Loaders of images in worker processes."""

import signal
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from vistok.data.batches import Images, Sample, collate
from vistok.processes.patience import PATIENCE
from vistok.processes.patient_loader import PatientLoader


def loader(
    images: Images | Dataset | list[Sample],
    batch_size: int,
    num_workers: int,
    trainer: pl.Trainer | None,
    sampler: Iterable[tuple[int, int]] | None = None,
    timeout: float = PATIENCE,
    in_memory: bool = False,
    batches: Iterable[list[tuple[int, int]]] | None = None,
) -> DataLoader:
    """Loader of a data set, in the sampler's order or, without a sampler, in the order of an iterable data set.

    ``batches`` are the batches themselves, in place of a sampler and ``batch_size``.

    Workers that do not respond for ``timeout`` seconds are an error; torch would wait for a stopped worker forever. The
    same holds for storage that is read without workers, unless the images are in memory.
    """
    if timeout <= 0:
        raise ValueError(f"data.timeout must be more than 0 seconds, not {timeout}")
    order: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler} if batches is None else {}
    found = PatientLoader(
        images,
        **(order or {"batch_sampler": batches}),
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        timeout=timeout if num_workers else 0,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # else the first validation would draw from the training's random numbers
        pin_memory=trainer is not None and trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
    )
    found.patience = None if in_memory else timeout
    return found


def rank_of(trainer: pl.Trainer | None) -> tuple[int, int]:
    """Rank of this process and number of processes."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def leave_signals_to_the_parent(worker: int) -> None:
    """Makes a worker ignore signals that end the training process, which needs its workers until it has saved.

    A terminal, a scheduler or torchrun sends signals to every process. torch ends a remaining worker with SIGTERM: the
    second one ends it.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
