"""Places of the images in an uncompressed tar on disk, so that each can be read alone."""

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from webdataset.tariterators import base_plus_ext

from vistok.data.tars import META, MOST_BYTES, MemberHeader
from vistok.images.decoding import image_extensions
from vistok.images.rgb import UnreadableImage


class TarMember(NamedTuple):
    """An image of a tar."""

    name: str
    offset: int  # of its first byte in the tar
    size: int  # bytes


def images_of_tar(path: Path) -> Iterator[TarMember]:
    """All images in a tar by their extension, in its order; their bytes are not read.

    Raises:
        UnreadableImage: The file is not a complete, uncompressed tar.
    """
    known = image_extensions()
    try:
        with tarfile.open(path, "r:", tarinfo=MemberHeader) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep all of them
                name = PurePosixPath(member.name)
                if not member.isreg() or META.match(member.name) or name.name.startswith("."):
                    continue
                if name.suffix.lower() in known:
                    if member.size > MOST_BYTES or member.issparse():
                        raise ValueError(f"{member.name} is stored with holes, or has too many bytes for an image")
                    yield TarMember(member.name, member.offset_data, member.size)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise UnreadableImage(f"{path}: {type(error).__name__}: {error}") from error


def names_in_shard(path: Path) -> list[str]:
    """Names of the images that ``tars.images_in`` reads: the first image of members with the same key.

    Raises:
        UnreadableImage: The file is not a complete, uncompressed tar.
    """
    known = image_extensions()
    keyed = ((*base_plus_ext(member.name), member.name) for member in images_of_tar(path))
    images = ((key, name) for key, extension, name in keyed if key is not None and f".{extension.lower()}" in known)
    return [next(own)[1] for _, own in itertools.groupby(images, key=lambda pair: pair[0])]
