"""Signals that ask a command to end: the command ends in order and keeps finished results."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = tuple(  # Ctrl-C; schedulers and torchrun; a closed terminal; warnings of schedulers before a kill
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal asks this process to end.

    Attributes:
        number: Number of the signal.
        status: Exit status: 128 plus the number of the signal, as in shells.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number, self.status = number, 128 + number


class _Waiting:
    """State of deferred signals: depth of nested blocks, and the number of the signal that arrived."""

    depth = 0
    number = 0


@contextmanager
def caught() -> Iterator[None]:
    """Raises ``Interrupted`` for these signals within the block; after the first one a Ctrl-C ends the process at once.

    A signal that was ignored before stays ignored, so that ``nohup`` works.
    """
    former: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _Waiting.depth:
            _Waiting.number = number
        else:
            raise Interrupted(number)

    if threading.current_thread() is threading.main_thread():
        ours = [number for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
        former = {number: signal.signal(number, receive) for number in ours}
    try:
        yield
    finally:
        _Waiting.number = 0
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Defers signals to the end of the block, whose state must not be left half done."""
    _Waiting.depth += 1
    try:
        yield
    finally:
        _Waiting.depth -= 1
    if _Waiting.number and not _Waiting.depth:
        number, _Waiting.number = _Waiting.number, 0
        raise Interrupted(number)
