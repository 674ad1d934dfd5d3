"""Cells of a table of images: bytes, or Hugging Face's struct of bytes and a path, and labels."""

import os
import stat
from pathlib import Path
from typing import Any

from vistok.data.tars import MOST_BYTES
from vistok.images.rgb import UnreadableImage

BYTES, PATH = "bytes", "path"  # fields of Hugging Face's image


def bytes_of(cell: Any, folder: Path | None) -> bytes:
    """Bytes of an image: those in the cell, or those of the file that it names.

    Args:
        cell: Bytes, a dict of bytes and path, or None.
        folder: Folder that relative paths begin at; None if files are not to be read.

    Raises:
        UnreadableImage: There are no bytes, or too many.
    """
    data, path = cell.get(BYTES) if isinstance(cell, dict) else cell, path_of(cell)
    if data is None and path is None:
        raise UnreadableImage("the row has no image")
    if data is None:
        if folder is None:
            raise UnreadableImage(f"the row has no bytes, but the path {path}, which a URL does not lead to")
        data = _content_of(folder / str(path))
    if len(data) > MOST_BYTES:
        raise UnreadableImage("it has more than 256 MiB: no image is so large")
    return data


def path_of(cell: Any) -> str | None:
    """Path of an image; None if the cell has none."""
    path = cell.get(PATH) if isinstance(cell, dict) else None
    return path if type(path) is str and path and "\0" not in path else None


def label_of_cell(label: int | None, named: bool) -> int | None:
    """Label of an image; None if it has none, which -1 says too where classes are ``named`` by Hugging Face."""
    return None if named and label == -1 else label


def _content_of(file: Path) -> bytes:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:  # does not wait for a pipe's writer
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise UnreadableImage(f"the row has no bytes, and {file} is not a regular file")
            return opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableImage(f"the row has no bytes, and {file} cannot be read: {error.strerror}") from error
