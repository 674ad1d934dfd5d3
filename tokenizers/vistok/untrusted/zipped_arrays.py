"""Arrays in ``.npz`` files from unknown sources, bounded in size whatever their compressed content claims."""

import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vistok.untrusted.arrays import read_array
from vistok.untrusted.bounded_json import one_line, short
from vistok.untrusted.torch_files import check_directory_size

MAX_MEMBER = 2**28  # largest array in bytes, uncompressed
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, OverflowError, EOFError, OSError)


def read_arrays(path: Path, names: Collection[str], most: int = MAX_MEMBER) -> dict[str, np.ndarray]:
    """Those of the named arrays of numbers that an ``.npz`` file has.

    Args:
        path: The file.
        names: Names of the wanted arrays.
        most: Largest accepted size of each in bytes, with its header.

    Raises:
        ValueError: The file or an array is damaged or too large; the message names the file.
    """
    with _opened(path) as archive:
        present = set(archive.namelist())
        return {
            name: read_array(_member(archive, f"{name}.npy", most), f"{path}: {short(name)}")
            for name in names
            if f"{name}.npy" in present
        }


def read_texts(path: Path, name: str, most: int = MAX_MEMBER) -> list[str]:
    """A list of texts in an ``.npz`` file.

    Raises:
        ValueError: The file has no such list, or it is damaged or too large; the message names the file.
    """
    with _opened(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise ValueError(f"it has no {name}")
        texts = read_array(_member(archive, f"{name}.npy", most), f"{path}: {name}", texts=True).ravel()
        codes = texts.view(f"{texts.dtype.str[0]}u4") if texts.size else np.zeros(0, np.uint32)
        if ((codes > sys.maxunicode) | (codes >> 11 == 0xD800 >> 11)).any():  # the latter are halves of characters
            raise ValueError(f"{name} has characters that do not exist")
        return texts.tolist()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_directory_size(data)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (*DAMAGE, ValueError) as error:
        raise ValueError(f"{path} cannot be read as arrays: {one_line(error)}") from error


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as file:
        content = file.read(most + 1)  # not what the list of members claims
    if len(content) > most:
        raise ValueError(f"{short(name)} has more than {most:,} bytes")
    return content
