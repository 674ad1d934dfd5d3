"""Timeouts for reading from storage."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

PATIENCE = 300.0  # default timeout in seconds
Item = TypeVar("Item")


def in_time(items: Iterator[Item], seconds: float) -> Iterator[Item]:
    """Yields the same items, each read by a thread on request.

    Raises:
        RuntimeError: An item has not arrived within ``seconds``; the message is that of torch's loader with workers.
    """
    requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def read() -> None:
        while requests.get():
            try:
                results.put((next(items), None))
            except BaseException as error:
                results.put((None, error))

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            requests.put(True)
            try:
                item, error = results.get(timeout=seconds)
            except queue.Empty:
                raise RuntimeError(f"DataLoader timed out after {seconds:g} seconds") from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        requests.put(False)


def within(seconds: float, read: Callable[..., Item], *arguments: Any) -> Item:
    """Result of a function that reads from storage, with the timeout of ``in_time``."""
    return next(in_time((read(*arguments) for _ in range(1)), seconds))
