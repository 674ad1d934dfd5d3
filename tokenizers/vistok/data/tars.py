"""The images in tar shards, wherever the shards lie.

Only a URL that the user typed has a scheme, and may so run a command; it is a ``Url``. Any other text is the path of a
file, whatever it looks like: a file on disk may be called ``pipe:COMMAND``.
"""

import glob
import os
import re
import tarfile
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from webdataset.gopen import gopen, gopen_schemes, set_options
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from vistok.images.decoding import image_extensions
from vistok.images.rgb import UnreadableImage

LABEL = ".cls"
MOST_BYTES = 2**28  # of an image's file; a compressed or sparse member of a few kB may claim any size
MOST_HEADER = 2**20  # bytes of a long name or of pax fields, which are read at once
HEADER_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
HEADER_TYPES += (tarfile.GNUTYPE_LONGLINK,)
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset reserves


class Url(str):
    """A URL that the user typed. Only ``expand`` makes them, of its arguments; what it finds on disk is plain text."""


def expand(urls: str | Sequence[str], argument: str) -> list[str]:
    """The shards that are meant: braces as webdataset expands them, ``*`` and ``?`` in paths as a shell does.

    Where a file has the very name, that file is meant: a shell has perhaps expanded ``*.tar`` to ``pipe:COMMAND.tar``.

    Args:
        urls: One or several, as the user typed them.
        argument: What the user calls them, for messages.

    Returns:
        Paths of files, and ``Url``s.

    Raises:
        ValueError: There are none, a file does not exist, or nothing opens URLs of that kind.
    """
    found = []
    for pattern in [urls] if isinstance(urls, str) else urls:
        try:
            expanded = [pattern] if os.path.exists(pattern) else expand_urls(pattern)
        except (AssertionError, ValueError) as error:  # a variable that is not set, braces that do not match
            raise ValueError(f"{argument}={pattern}: {error}") from error
        for url in filter(None, expanded):
            found += _existing(url, argument)
    if not found:
        raise ValueError(f"{argument}={urls} names no shard")
    return found


def _existing(url: str, argument: str) -> list[str]:
    path = os.path.expanduser(url)
    if not os.path.exists(path):
        try:
            parts = urlparse(url)
        except ValueError as error:
            raise ValueError(f"{argument}={url}: {error}") from error
        if parts.scheme not in ("", "file"):
            if parts.scheme not in gopen_schemes:
                raise ValueError(f"{argument}: nothing opens {url}; 'pipe:COMMAND' reads what a command writes")
            return [Url(url)]
        path = os.path.expanduser(url2pathname(parts.path)) if parts.scheme else path
    path = str(Path(path))
    if os.path.isdir(path):
        raise ValueError(f"{argument}: {path} is a folder; {path}/*.tar are the shards in it")
    matching = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not matching:
        raise ValueError(f"{argument}: there is no shard {path}")
    return matching


def open_shard(shard: str) -> BinaryIO:
    """A shard's bytes: of the file with that path, or of what webdataset makes of a ``Url``."""
    return gopen(shard) if isinstance(shard, Url) else open(shard, "rb")


def shard_name(url: str) -> str:
    """The last part of a URL, without a query."""
    return url.partition("?")[0].rpartition("/")[2]


def images_in(url: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image in a shard, in its order; of members with the same key the first image.

    Key and extension are webdataset's: what is before the first dot of the file name, and what is behind it.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
    """
    former = None
    for key, _, name, data in members_in(url, image_extensions()):
        if key != former:
            former = key
            yield name, data


def labelled_images_in(url: str) -> Iterator[tuple[str, bytes, bytes | None]]:
    """As ``images_in``, with what the member ``KEY.cls`` beside the image holds, on either side of it; None for none.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
    """
    former, image, label = None, None, None
    for key, extension, name, data in members_in(url, image_extensions() | {LABEL}):
        if key != former:
            if image is not None:
                yield *image, label
            former, image, label = key, None, None
        if extension == LABEL:
            label = data
        elif image is None:
            image = (name, data)
    if image is not None:
        yield *image, label


def members_in(url: str, extensions: Container[str]) -> Iterator[tuple[str, str, str, bytes]]:
    """Key, extension, name and bytes of each member of a shard that has one of the extensions, in its order.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
    """
    try:
        with open_shard(url) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|*", tarinfo=MemberHeader) as archive:
                    while (member := archive.next()) is not None:
                        archive.members.clear()  # it would keep them all
                        key, extension = base_plus_ext(member.name)
                        if key is None or not member.isreg() or META.match(member.name):
                            continue
                        if (extension := f".{extension.lower()}") in extensions:
                            if member.size > MOST_BYTES:
                                raise ValueError(f"{member.name} has {member.size:,} bytes: no image is so large")
                            if member.issparse():  # 512 bytes of the archive could be 256 MiB, again and again
                                raise ValueError(f"{member.name} is stored with holes: no image is")
                            yield key, extension, member.name, archive.extractfile(member).read()
                while stream.read(2**20):  # a pipe's writer is not broken off before its end
                    pass
            except GeneratorExit:
                set_options(stream, ignore_errors=True)  # of a pipe whose reader goes
                raise
    except Exception as error:  # of a file system, a server, a command or a decompressor
        raise UnreadableImage(f"{url}: {type(error).__name__}: {error}") from error


class MemberHeader(tarfile.TarInfo):
    """A member's header. An archive that stops without its end mark is cut short; ``tarfile`` takes it for whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "MemberHeader":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the archive is cut short or damaged: {error}") from error

    @classmethod
    def frombuf(cls, block: bytes, encoding: str, errors: str) -> "MemberHeader":
        header = super().frombuf(block, encoding, errors)
        if header.size > MOST_HEADER and header.type in HEADER_TYPES:
            raise tarfile.InvalidHeaderError(f"a header of {header.size:,} bytes")
        return header
