"""Progress of long work: a bar in a terminal or a notebook, elsewhere a line from time to time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from vistok import terminal
from vistok.processes.notebook_output import live_display

EVERY = 10.0  # seconds between two lines


@contextmanager
def progress(
    console: Console, title: str, total: int | None, done: int, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of images, or of other things, that are done.

    Args:
        console: Console to print to; nothing is printed to a quiet one.
        title: Name of the work.
        total: Number of images; None if unknown.
        done: Number of images done before.
        unit: Name of the things that are counted, in the plural.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, speed_estimate_period=60)
    if live := live_display(bar, console, transient=True):
        task = bar.add_task(title, total=total, completed=done)
        live.start()
        try:
            yield lambda count: bar.update(task, completed=count)
        finally:
            live.stop()
        return
    began = printed = time.monotonic()

    def say(count: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= EVERY and count > done:
            printed = now
            terminal.say(line(title, total, count, (count - done) / (now - began), unit), console=console)

    yield say


def line(title: str, total: int | None, count: int, rate: float, unit: str = "images") -> str:
    """Progress in one line: ``adm crops: 1,200 of 50,000 images, 98.5 images/s, 0:08:16 left``."""
    if total is None:
        return f"{title}: {count:,} {unit}, {rate:,.1f} {unit}/s"
    minutes, seconds = divmod(round((total - count) / rate), 60)
    left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    return f"{title}: {count:,} of {total:,} {unit}, {rate:,.1f} {unit}/s, {left} left"


class RateColumn(ProgressColumn):
    """Images, or other things, per second."""

    def __init__(self, unit: str = "images"):
        super().__init__()
        self.unit = unit

    def render(self, task) -> Text:
        return Text(f"{task.speed:,.1f} {self.unit}/s" if task.speed else "")
