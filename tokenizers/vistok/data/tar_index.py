"""Places of the images in an uncompressed tar on disk, so that each can be read alone."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vistok.data.tar_samples import extension_of, samples
from vistok.data.tars import MemberHeader, is_visible, refuse_large
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
                if is_visible(member) and extension_of(member.name) in known:
                    refuse_large(member)
                    yield TarMember(member.name, member.offset_data, member.size)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise UnreadableImage(f"{path}: {type(error).__name__}: {error}") from error


def names_in_shard(path: Path) -> list[str]:
    """Names of the images that ``tar_samples.images_in`` reads.

    Raises:
        UnreadableImage: The file is not a complete, uncompressed tar.
    """
    return [found.image.name for found in samples(images_of_tar(path)) if found.image]
