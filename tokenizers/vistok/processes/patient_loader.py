"""Loader with a timeout also where it has no workers."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from vistok.processes.patience import in_time


class PatientLoader(DataLoader):
    """Loader that without workers reads in a separate thread, with a timeout like that of workers.

    No signal can interrupt a read from storage that does not respond. With the thread the process can report it and
    end.

    Attributes:
        patience: Seconds to wait for a batch that this process reads; None reads without a thread.
    """

    patience: float | None = None

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        return batches if self.num_workers or self.patience is None else in_time(batches, self.patience)
