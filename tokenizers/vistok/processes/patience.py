"""Waiting for storage no longer than the user wants to."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

PATIENCE = 300.0  # seconds, unless an argument says otherwise
Item = TypeVar("Item")


class PatientLoader(DataLoader):
    """A loader without workers reads in a thread of its own, which is waited for as workers are.

    Storage may be silent in a way that no signal ends. The process can then say so and end.

    Attributes:
        patience: Seconds to wait for a batch that this process reads; None reads without a thread.
    """

    patience: float | None = None

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        return batches if self.num_workers or self.patience is None else in_time(batches, self.patience)


def in_time(items: Iterator[Item], seconds: float) -> Iterator[Item]:
    """The same items, each read by a thread when it is asked for.

    Raises:
        RuntimeError: One has not come within so many seconds; the words are those of torch's loader with workers.
    """
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    given: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def read() -> None:
        while asked.get():
            try:
                given.put((next(items), None))
            except BaseException as error:
                given.put((None, error))

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            asked.put(True)
            try:
                item, error = given.get(timeout=seconds)
            except queue.Empty:
                raise RuntimeError(f"DataLoader timed out after {seconds:g} seconds") from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        asked.put(False)


def within(seconds: float, read: Callable[..., Item], *arguments: Any) -> Item:
    """The result of a function that reads from storage, with the limit of ``in_time``."""
    return next(in_time((read(*arguments) for _ in range(1)), seconds))
