"""Identity of the images of an evaluation: their number, names and pixels, and the state of their files."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from vistok.data import ImageDataModule
from vistok.data.image_folder import ImageFiles
from vistok.data.shards import Data
from vistok.distributed.collectives import gather_objects
from vistok.files import sha256_of_lines
from vistok.images.pixel_hash import set_hash
from vistok.processes.patience import PATIENCE, in_time


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 of the sorted list of image names."""
    return sha256_of_lines(sorted(names))


def identity_of_names(names: Sequence[str]) -> dict[str, Any]:
    """Number of images and hash of their names: what is known before they are read."""
    return {"images": len(names), "names_sha256": names_hash(names)}


def identity(names: Sequence[str], hashes: Sequence[str]) -> dict[str, Any]:
    """Number of images, hash of their names, and hash of their names and pixels.

    Args:
        names: Names of the images.
        hashes: Hash of the pixels of each image.
    """
    return identity_of_names(names) | {"images_sha256": set_hash(names, hashes)}


def state_of_files(data: Data) -> list[str | None]:
    """Hash of the sizes and times of the files to be scored, as every rank sees them; None where there are no files.

    A saved state continues only with the same files. Contents replaced at equal size and time are not noticed.
    """
    files: Iterable[str | os.PathLike] = ()
    if not isinstance(data, ImageDataModule):
        files = data.val.urls
    elif isinstance(data.test, ImageFiles):
        files = data.test.listing.files()
    lines = list(in_time((f"{os.fspath(file)} {_size_and_time(file)}" for file in files), PATIENCE))
    return gather_objects(sha256_of_lines(lines) if lines else None)


def _size_and_time(file: str | os.PathLike) -> str:
    try:
        status = os.stat(file)
    except OSError:  # a URL, or a file that the loader will report
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
