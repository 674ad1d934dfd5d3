"""Folders that are whole or not there, whatever happens while they are written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vistok import locks


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill. It gets its name when the block ends well; when the block raises, nothing is left.

    Args:
        path: Where to; what stands beside it as ``.NAME.partial`` is this function's.

    Raises:
        ValueError: There is something already, another process writes it, or it cannot be written.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists already and is not overwritten")
    partial = path.with_name(f".{path.name}.partial")
    with locks.held(locks.beside(path), str(path)):
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir()
        try:
            yield partial
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
