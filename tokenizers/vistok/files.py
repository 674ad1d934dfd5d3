"""Files that are whole or not there, whatever happens while they are written; and names that stay in their folder."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vistok.processes import locks

NO_NAME = re.compile("[\0\\\\\ud800-\udc7f\udd00-\udfff]")  # what no file's name has, other than undecodable bytes


@contextmanager
def atomic_write(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
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


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def encodable(text: str) -> str:
    """Text that any file can hold: bytes of names that are no UTF-8 are spelled out, as in ``caf\\udce9.png``."""
    return text.encode(errors="backslashreplace").decode()


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON that any reader accepts: a number that is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def finite(value: Any) -> Any:
    """The same content with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value
