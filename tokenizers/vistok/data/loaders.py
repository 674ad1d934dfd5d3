"""Loaders of images in worker processes."""

import signal
from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from vistok.data.batches import Images, Sample, collate
from vistok.processes.patience import PATIENCE, PatientLoader


def loader(
    images: Images | Dataset | list[Sample],
    batch_size: int,
    num_workers: int,
    trainer: pl.Trainer | None,
    sampler: Iterable[tuple[int, int]] | None = None,
    timeout: float = PATIENCE,
    in_memory: bool = False,
) -> DataLoader:
    """Batches of a data set, in the sampler's order or, without one, as the set itself yields its images.

    Workers that are silent for ``timeout`` seconds are an error: torch would wait for a stopped one forever. So is
    storage that is, where there are no workers, unless the images are in memory.
    """
    if timeout <= 0:
        raise ValueError(f"data.timeout must be more than 0 seconds, not {timeout}")
    batches = PatientLoader(
        images,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        timeout=timeout if num_workers else 0,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # else a process's first validation draws from the training's numbers
        pin_memory=trainer is not None and trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
    )
    batches.patience = None if in_memory else timeout
    return batches


def rank_of(trainer: pl.Trainer | None) -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def leave_signals_to_the_parent(worker: int) -> None:
    """What a terminal, a scheduler or torchrun sends reaches every process; the training process decides when its
    workers end, and needs them until it has saved. Torch ends a worker that does not end by itself with SIGTERM: the
    second one does.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
