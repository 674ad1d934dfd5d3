"""Images in tar shards, local or remote.

Only a URL that the user typed has a scheme and may thus run a command; it is a ``Url``. Any other text is the path of a
file, whatever it looks like: a file on disk may be named ``pipe:COMMAND``.
"""

import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from webdataset.gopen import gopen, gopen_schemes, set_options
from webdataset.shardlists import expand_urls

from vistok.data.folder_listing import PASSED_OVER
from vistok.images.rgb import UnreadableImage

LABEL, CAPTION = ".cls", ".txt"
MOST_BYTES = 2**28  # largest image file; a compressed or sparse member of a few kB may claim any size
MOST_HEADER = 2**20  # largest header with a long name or pax fields, in bytes, which is read at once
HEADER_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
HEADER_TYPES += (tarfile.GNUTYPE_LONGLINK,)
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset reserves


class Url(str):
    """URL that the user typed. Only ``expand`` creates them, from its arguments; names found on disk are plain text."""


def expand(urls: str | Sequence[str], argument: str) -> list[str]:
    """Expands the user's shard patterns: braces as webdataset does, ``*`` and ``?`` in paths as a shell does.

    A pattern that is the exact name of a file means that file: a shell may have expanded ``*.tar`` to
    ``pipe:COMMAND.tar``.

    Args:
        urls: One or several patterns, as the user typed them.
        argument: The user's name of the argument, for messages.

    Returns:
        Paths of files, and ``Url``s.

    Raises:
        ValueError: There are no shards, a file does not exist, or URLs of this kind cannot be opened.
    """
    found = []
    for pattern in [urls] if isinstance(urls, str) else urls:
        try:
            expanded = [pattern] if os.path.exists(pattern) else expand_urls(pattern)
        except (AssertionError, ValueError) as error:  # an unset variable, or unbalanced braces
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
                raise ValueError(f"{argument}: {url} cannot be opened; 'pipe:COMMAND' reads the output of a command")
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
    """Opens the bytes of a shard: the file with that path, or a ``Url`` through webdataset."""
    return gopen(shard) if isinstance(shard, Url) else open(shard, "rb")


def shard_name(url: str) -> str:
    """Last part of a URL, without a query."""
    return url.partition("?")[0].rpartition("/")[2]


def members_in(url: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a shard whose name is wanted, in order; hidden files are passed over.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
    """
    try:
        with open_shard(url) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|*", tarinfo=MemberHeader) as archive:
                    while (member := archive.next()) is not None:
                        archive.members.clear()  # tarfile would keep all of them
                        if is_visible(member) and wanted(member.name):
                            refuse_large(member)
                            yield member.name, archive.extractfile(member).read()
                while stream.read(2**20):  # lets the writer of a pipe finish
                    pass
            except GeneratorExit:
                set_options(stream, ignore_errors=True)  # for a pipe whose reader ends early
                raise
    except Exception as error:  # errors of a file system, a server, a command or a decompressor
        raise UnreadableImage(f"{url}: {type(error).__name__}: {error}") from error


def is_visible(member: tarfile.TarInfo) -> bool:
    """True for a file that is neither hidden, nor one of macOS's resource forks, nor one of webdataset's own."""
    folder, _, name = member.name.rpartition("/")
    hidden = name.startswith(".") or META.match(member.name) or PASSED_OVER in folder.split("/")
    return member.isreg() and not hidden


def refuse_large(member: tarfile.TarInfo) -> None:
    """Refuses a member that is too large for an image or its label, or claims a size that is not in the archive."""
    if member.size > MOST_BYTES:
        raise ValueError(f"{member.name} has {member.size:,} bytes: no image is so large")
    if member.issparse():  # 512 bytes of the archive could expand to 256 MiB, repeatedly
        raise ValueError(f"{member.name} is stored with holes: no image is")


class MemberHeader(tarfile.TarInfo):
    """Header of a member; an archive without its end mark is an error, which ``tarfile`` would ignore."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "MemberHeader":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the archive is truncated or damaged: {error}") from error

    @classmethod
    def frombuf(cls, block: bytes, encoding: str, errors: str) -> "MemberHeader":
        header = super().frombuf(block, encoding, errors)
        if header.size > MOST_HEADER and header.type in HEADER_TYPES:
            raise tarfile.InvalidHeaderError(f"a header of {header.size:,} bytes")
        return header
