"""Text for a terminal. Control characters in names and other file contents are escaped, never interpreted."""

import sys
from typing import NoReturn
from unicodedata import category

from rich import get_console
from rich.console import Console
from rich.text import Text


def visible(text: str) -> str:
    """Escapes every character that a terminal would interpret, hide or refuse to print.

    These are control characters including line ends, marks of writing direction, and the surrogates that represent the
    bytes of a file name that is not UTF-8.
    """
    return "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in text)  # Zs: kinds of space


def lines(text: str) -> str:
    """Escapes characters as ``visible`` does but keeps line ends, for messages that quote names."""
    return "\n".join(visible(line) for line in text.split("\n"))


def duration(seconds: float) -> str:
    """Time as 0:45, 12:03 or 3:00:09: hours only where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def say(text: str, style: str = "", label: str = "", console: Console | None = None) -> None:
    """Prints a message literally: no markup, no highlighting of numbers, no added line ends.

    Args:
        text: The message.
        style: Style of the message, in rich's syntax.
        label: Text printed in bold before the message.
        console: Console to print to; None is the one that the progress bar uses.
    """
    message = Text.assemble((label, "bold"), (lines(text), style))
    (console or get_console()).print(message, highlight=False, soft_wrap=True)


def stop(error: object) -> NoReturn:
    """Ends the process with ``error: ...`` on the error stream and status 1."""
    sys.exit(lines(f"error: {error}"))
