"""Images of a folder, by their paths."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from vistok.data.class_folders import ClassFolders, class_folders
from vistok.data.folder_listing import nothing_found
from vistok.data.folder_splits import Split, split_of
from vistok.data.kept_listing import kept_listing
from vistok.data.listings.listing import Listing, Wanted
from vistok.data.listings.splits import Splits
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage
from vistok.processes.node_files import node_value

VALUES = (".dcm", ".dicom", ".npy")  # extensions of files that are not 8-bit RGB; the last one only without others
CAPTION = ".txt"  # beside the image
MOST_CAPTION = 2**20  # bytes


class FolderImages(Listing):
    """Image files below a folder.

    Args:
        root: The folder.
        names: Paths relative to it.
        classes: Classes of the images; None gives no labels.
        captions: True reads ``NAME.txt`` beside ``NAME.jpg``.
    """

    kind = "folder"
    single_files = True

    def __init__(self, root: Path, names: Sequence[str], classes: ClassFolders | None = None, captions: bool = False):
        self.root, self.names, self.numbers, self.captions = root, names, classes, captions
        self.about = encodable(str(root))
        self.classes = tuple(map(encodable, classes.numbers)) if classes else None

    @cached_property
    def as_values(self) -> bool:
        return any(name.lower().endswith(VALUES) for name in self.names)

    def open(self, i: int) -> Path:
        return self.root / self.names[i]

    def where(self, i: int) -> str:
        return encodable(str(self.open(i)))

    def label(self, i: int) -> int | None:
        return self.numbers.of(self.names[i]) if self.numbers else None

    def caption(self, i: int) -> str | None:
        if not self.captions:
            return None
        file = self.open(i).with_suffix(CAPTION)
        try:
            with file.open("rb") as opened:
                text = opened.read(MOST_CAPTION + 1)
            if len(text) > MOST_CAPTION:
                raise UnreadableImage(f"its caption {file.name} has more than {MOST_CAPTION:,} bytes")
            return text.decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableImage(f"its caption {file.name} cannot be read: {error}") from error


def folder_splits(root: Path, argument: str, wanted: Wanted = Wanted()) -> Splits:
    """Images of a folder, by its subfolders ``train``, ``val`` and ``test`` if it has them.

    Args:
        root: The folder.
        argument: The user's name of it with its value, for messages.
        wanted: Labels are the folders of the images, numbered in sorted order; captions are text files beside them.

    Raises:
        ValueError: The folder does not exist, has no images, or an image has no label that is needed.
    """
    split = split_of(root)
    subfolders = (split.train, split.val, split.test) if split else ("", None, None)
    names = [None if own is None else _names(root, own, argument) for own in subfolders]
    classes = _classes([own for own in names if own], bool(split), argument, wanted)
    captions = wanted.captions == "needed" or (
        wanted.captions == "known" and node_value(f"captions {root}", lambda: _has_captions(root, names[0] or ()))
    )
    train, val, test = (None if own is None else FolderImages(root, own, classes, captions) for own in names)
    return Splits(train or FolderImages(root, ()), val, test, tuple(_notes(root, split)))


def _notes(root: Path, split: Split | None) -> list[str]:
    """Folders that are not read."""
    notes = []
    if split and split.val and split.test:
        notes.append(f"{root / split.test} is neither trained on nor scored; data.root={root / split.test} scores it")
    if split and split.others:
        notes.append(f"not read beside {split.names}: {', '.join(str(root / name) for name in split.others)}")
    return list(map(encodable, notes))


def _names(root: Path, subfolder: str, argument: str) -> Sequence[str]:
    files = kept_listing(root, subfolder, VALUES[:-1]) or kept_listing(root, subfolder, VALUES[-1:])
    if not files:
        raise ValueError(f"{argument}: {nothing_found(root, subfolder)}")
    return files


def _has_captions(root: Path, names: Sequence[str]) -> bool:
    return any((root / name).with_suffix(CAPTION).is_file() for name in names)


def _classes(parts: Sequence[Sequence[str]], depth: int, argument: str, wanted: Wanted) -> ClassFolders | None:
    """Classes of the images of all parts, found in one process of a node; None without labels."""

    def find() -> ClassFolders | None:
        if wanted.labels == "known" and any(name.count("/") <= depth for name in chain(*parts)):
            return None
        return class_folders(chain(*parts), depth, argument)

    found = None if wanted.labels == "none" else node_value(f"classes {argument} {wanted.labels}", find)
    return found and ClassFolders(*found)
