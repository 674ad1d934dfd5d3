"""Image files below a folder, by their extension.

Symbolic links are followed, as by torchvision's ``ImageFolder``, except to a folder that they lie in. Hidden files and
folders (names that begin with a dot) and macOS's ``__MACOSX`` are passed over.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from vistok.images.decoding import image_extensions
from vistok.processes.patience import PATIENCE, in_time

BLOCK = 100  # folders that are listed before the storage counts as responding
FIRST = (".jpg", ".jpeg", ".png")  # extensions to try first, for speed
PASSED_OVER = "__MACOSX"  # folder of macOS's resource forks in a zip archive


def list_images(root: Path, subfolder: str = "", also: Sequence[str] = ()) -> list[str]:
    """Image files below ``root / subfolder`` by their extension, relative to ``root``, sorted.

    A link to a file that does not exist counts as an image, so that it is reported as unreadable.

    Args:
        root: The folder.
        subfolder: The subfolder to list.
        also: Further extensions in lower case, with their dots.

    Raises:
        ValueError: A folder cannot be listed.
        RuntimeError: The storage does not respond.
    """
    return sorted(name for names in image_blocks(root, subfolder, also) for name in names)


def image_blocks(root: Path, subfolder: str = "", also: Sequence[str] = ()) -> Iterator[list[str]]:
    """The images of ``list_images`` in blocks, nearly sorted."""
    return files_in(root, subfolder, (*FIRST, *image_extensions(), *also))


def contents(root: Path, subfolder: str = "") -> str:
    """Kinds of files below ``root / subfolder`` by number, for a message about a folder without images."""
    kinds = Counter(
        os.path.splitext(name)[1].lower() or "no extension" for names in files_in(root, subfolder) for name in names
    )
    most = [f"{count:,} of {kind}" for kind, count in kinds.most_common(4)]
    return f"only files of other kinds ({', '.join(most)})" if most else "no files"


def nothing_found(root: Path, subfolder: str = "") -> str:
    """Message about a folder without images: its contents, and the kinds of files that are read."""
    read = ", ".join(sorted(image_extensions()))
    return f"no images found in {root / subfolder}: it has {contents(root, subfolder)}; read are {read}"


def files_in(root: Path, subfolder: str = "", known: tuple[str, ...] = ("",)) -> Iterator[list[str]]:
    """Blocks of files below ``root / subfolder`` with an extension of ``known``, relative to ``root``.

    Errors are those of ``list_images``.
    """
    prefix = f"{Path(subfolder).as_posix()}/" if subfolder else ""
    return in_time(_blocks(_files(str(root / subfolder), prefix, (), known)), PATIENCE)


def _blocks(folders: Iterator[list[str]]) -> Iterator[list[str]]:
    while block := list(islice(folders, BLOCK)):
        yield list(chain.from_iterable(block))


def _files(folder: str, prefix: str, above: tuple[str, ...], known: tuple[str, ...]) -> Iterator[list[str]]:
    """Files of a folder, then those of its subfolders; ``above`` are the real paths of the folders that it lies in."""
    names, subfolders = [], []
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if entry.is_file():
                    names.append(name)
                elif entry.is_dir():
                    if name != PASSED_OVER:
                        subfolders.append(name)
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    names.append(name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed: {error.strerror}") from error
    names.sort()  # names alone take less time than all paths at the end, which are then nearly sorted
    yield [prefix + name for name in names if name.lower().endswith(known)]
    for name in sorted(subfolders):
        yield from _files(os.path.join(folder, name), f"{prefix}{name}/", (*above, real), known)
