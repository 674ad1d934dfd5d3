"""Files that are whole or not there, whatever happens while they are written; and names that stay in their folder."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NO_NAME = re.compile("[\0\\\\\ud800-\udc7f\udd00-\udfff]")  # what no file's name has, other than undecodable bytes


@contextmanager
def whole(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write. It gets its name, in the place of any former one, when all of it is on disk.

    Args:
        path: Where to; what stands beside it as ``.NAME.partial`` is this function's.
        before: Called when all is on disk, before the former file loses its name.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        flush(partial)  # by its name: a library may have put a file of its own there
        if before is not None:
            before()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def below(folder: Path, name: Any, where: Path) -> Path:
    """The path of a file in a folder, by a name that was found in a file.

    Args:
        folder: The folder.
        name: A relative path without ``..``.
        where: The file that it was found in, for messages.

    Raises:
        ValueError: It is anything else.
    """
    plain = isinstance(name, str) and name and not NO_NAME.search(name)
    if not plain or Path(name).is_absolute() or ".." in Path(name).parts or re.match(r"\w[\w+.-]*:", name):
        raise ValueError(f"{where} names the file {repr(name)[:200]}, which is no path below its folder")
    return folder / name


def flush(path: Path) -> None:
    """Have a file's contents on disk, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
