"""Text that changes in its place: live in a terminal, and in the output of a notebook's cell."""

import io
import threading
from importlib import import_module
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

FORMAT = '<pre style="white-space:pre-wrap;line-height:normal;margin:0">{code}</pre>'  # of one output
WIDTH = 100  # characters of a line
EVERY = 0.5  # seconds between two drawings


class LiveDisplay(Protocol):
    """Text that is drawn again while work goes on."""

    def start(self) -> None: ...

    def update(self, renderable: RenderableType) -> None: ...

    def stop(self) -> None: ...


def live_display(renderable: RenderableType, console: Console, transient: bool = False) -> LiveDisplay | None:
    """Display that fits the output; None where text can only be appended, as in a file or a pipe.

    Args:
        renderable: Text of rich, which is rendered anew at each drawing.
        console: Console to print to.
        transient: True removes the text at the end.
    """
    if console.quiet:
        return None
    if console.is_terminal:
        return Live(renderable, console=console, transient=transient)
    return NotebookDisplay(renderable, transient) if console.is_jupyter else None


class NotebookDisplay:
    """Output of a notebook's cell that a thread draws again; the notebook stores the last drawing only.

    Args:
        renderable: Text of rich.
        transient: True removes the text at the end.
    """

    def __init__(self, renderable: RenderableType, transient: bool = False):
        self.renderable, self.transient = renderable, transient
        self.ended = threading.Event()

    def start(self) -> None:
        display = import_module("IPython.display").display  # a notebook has it
        self.output = display(drawn(self.renderable), raw=True, display_id=True)
        self.thread = threading.Thread(target=self._draw_again, daemon=True)
        self.thread.start()

    def update(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()
        self.output.update(drawn("" if self.transient else self.renderable), raw=True)

    def _draw_again(self) -> None:
        while not self.ended.wait(EVERY):
            self.output.update(drawn(self.renderable), raw=True)


def drawn(renderable: RenderableType) -> dict[str, str]:
    """Text of rich as HTML and as plain text, by type: neither has control characters."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False)
    console.print(renderable)
    html = console.export_html(inline_styles=True, code_format=FORMAT, clear=False)
    return {"text/html": html, "text/plain": console.export_text().rstrip("\n")}
