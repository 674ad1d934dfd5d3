"""Atomic writes of files and folders, hashes, JSON, and names that must stay in their folder."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vistok.processes import locks

NO_NAME = re.compile("[\0\\\\\ud800-\udc7f\udd00-\udfff]")  # in no file name; undecodable bytes are allowed


@contextmanager
def atomic_write(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Opens a file to write that replaces ``path`` only once all of it is on disk.

    Args:
        path: Path of the file. ``.NAME.partial`` beside it is reserved for this function.
        before: Called when all content is on disk, before an existing file is replaced.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        flush(partial)  # by name: a library may have replaced the open file
        if before is not None:
            before()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def below(folder: Path, name: Any, where: Path) -> Path:
    """Joins a folder and a relative file name that was read from a file.

    Args:
        folder: The folder.
        name: Relative path without ``..``.
        where: The file that holds the name, for messages.

    Raises:
        ValueError: The name is not such a path.
    """
    plain = isinstance(name, str) and name and not NO_NAME.search(name)
    if not plain or Path(name).is_absolute() or ".." in Path(name).parts or re.match(r"\w[\w+.-]*:", name):
        raise ValueError(f"{where} names the file {repr(name)[:200]}, which is not a path below its folder")
    return folder / name


def flush(path: Path) -> None:
    """Forces a file's contents, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Opens a folder to fill that appears at ``path`` only when the block ends without an error; else nothing is left.

    Args:
        path: Path of the folder. ``.NAME.partial`` beside it is reserved for this function.

    Raises:
        ValueError: The path exists, another process writes to it, or it is not writable.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists already and is not overwritten")
    partial = path.with_name(f".{path.name}.partial")
    with locks.held(locks.beside(path), str(path)):
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
        try:
            yield partial
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def sha256_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, joined by line feeds."""
    return hashlib.sha256(encodable("\n".join(lines)).encode()).hexdigest()


def encodable(text: str) -> str:
    """Text with the undecodable bytes of file names escaped, as in ``caf\\udce9.png``, so that any file can hold it."""
    return text.encode(errors="backslashreplace").decode()


def json_text(content: Any, indent: int | None = 2) -> str:
    """JSON text, on one line if ``indent`` is None; a number that is not finite becomes null."""
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def write_json(content: Any, path: Path, indent: int | None = 2) -> None:
    """Writes JSON atomically, in the form of ``json_text``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(f"{json_text(content, indent)}\n".encode())


def finite(value: Any) -> Any:
    """Copy of JSON content with None for every number that is not finite, and lists for tuples."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value
