"""Text for a terminal. What comes from files, names above all, is shown and never obeyed."""

import sys
from typing import NoReturn
from unicodedata import category

from rich import get_console
from rich.console import Console
from rich.text import Text


def visible(text: str) -> str:
    """The text with every character that a terminal would obey, hide or refuse to print as its escape.

    These are control characters, line ends among them, marks of writing direction, and the surrogates that stand for
    the bytes of a file name that is not UTF-8.
    """
    return "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in text)  # Zs: kinds of space


def lines(text: str) -> str:
    """As ``visible``, with line ends kept: for messages of our own that quote names."""
    return "\n".join(visible(line) for line in text.split("\n"))


def say(text: str, style: str = "", label: str = "", console: Console | None = None) -> None:
    """Print a message as it is: no markup, no colours of numbers, no line ends of its own.

    Args:
        text: The message.
        style: Of the message, as rich names it.
        label: In bold before it, on the first line.
        console: Where to; None is the one that the progress bar shares.
    """
    message = Text.assemble((label, "bold"), (lines(text), style))
    (console or get_console()).print(message, highlight=False, soft_wrap=True)


def stop(error: object) -> NoReturn:
    """End the process with ``error: ...`` on the error stream and status 1."""
    sys.exit(lines(f"error: {error}"))
