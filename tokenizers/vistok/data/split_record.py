"""Record of the images that a run held out and of those that it trained on, in the run's folder."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistok.data.data_module import ImageDataModule
from vistok.data.image_folder import ImageFiles
from vistok.data.listings.listing import Listing
from vistok.files import atomic_write, encodable, write_json
from vistok.processes.node_files import node_value
from vistok.untrusted.arrays import read_array
from vistok.untrusted.bounded_json import MAX_LISTING, read_object

FILE, TRAINED = "held_out.json", "trained_on.npy"
MOST_TRAINED = 10_000_000  # images whose names are recorded; 8 bytes each


class SplitRecord(NamedTuple):
    """Images of a folder that a run held out."""

    root: str  # absolute path of the folder
    hashes: dict[str, str]  # of the decoded pixels by name; empty text if the run has not read the image
    trained: np.ndarray | None = None  # sorted keys of the images trained on; None if there were too many

    def trained_on(self, root: Path, names: Sequence[str]) -> int | None:
        """Number of images of a folder that were trained on, by their paths; None if that is not known."""
        if self.trained is None:
            return None
        return int(np.isin(keys(root, names), self.trained, assume_unique=True).sum())


def write(folder: Path, data: Any) -> None:
    """Writes the record of a run on a folder of images, keeping known hashes; data of other kinds has none."""
    if not (isinstance(data, ImageDataModule) and isinstance(data.train, ImageFiles)):
        return
    root, names = data.train.listing.root.resolve(), data.train.listing.names
    if len(names) <= MOST_TRAINED:
        with atomic_write(folder / TRAINED) as file:
            np.save(file, np.sort(keys(root, names)))
    known = former.hashes if (former := read(folder)) else {}
    write_hashes(folder, encodable(str(root)), {name: known.get(name, "") for name in data.val.names()})


def check_unchanged(folder: Path | None, data: Any) -> None:
    """Refuses data that does not have the images of a run that resumes; a run without a record is not checked.

    Args:
        folder: Folder of the run; None if it is not known.
        data: The data to resume on.

    Raises:
        ValueError: There are other images than when the run began; the message has their number.
    """
    if folder is None or not (isinstance(data, ImageDataModule) and isinstance(data.train, ImageFiles)):
        return
    parts = data.train.listing, data.val.listing
    if change := node_value(f"change of {folder}", lambda: _change(folder, parts)):
        raise ValueError(
            f"{data.about} has {change} than when the run in {folder} began: a resume needs the same images"
        )


def _change(folder: Path, parts: Sequence[Listing]) -> str:
    """Numbers of images that a run's record does not have, and that only the record has; empty if there are none."""
    record = read(folder)
    if record is None or record.trained is None:
        return ""
    root = Path(record.root)  # the folder may have been moved
    known = np.sort(np.concatenate([record.trained, keys(root, record.hashes)]))
    found = np.concatenate([keys(root, part.names) for part in parts])
    new = np.flatnonzero(~np.isin(found, known, assume_unique=True))
    fewer = len(known) - (len(found) - len(new))
    texts = []
    if len(new):
        first = next(islice(chain.from_iterable(part.names for part in parts), int(new[0]), None))
        texts.append(f"{len(new):,} image{'s' * (len(new) > 1)} more, such as {encodable(first)},")
    if fewer:
        texts.append(f"{fewer:,} image{'s' * (fewer > 1)} fewer")
    return " and ".join(texts)


def write_hashes(folder: Path, root: str, hashes: Mapping[str, str]) -> None:
    write_json({"root": root, "held_out": hashes}, folder / FILE)


def read(folder: Path) -> SplitRecord | None:
    """Record of a run; None if it has none.

    Raises:
        ValueError: A file of it is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    content = read_object(folder / FILE, MAX_LISTING)
    root, hashes = content.get("root"), content.get("held_out")
    if type(root) is not str or type(hashes) is not dict or not all(type(own) is str for own in hashes.values()):
        raise ValueError(f"{folder / FILE} is not the record of a run's split")
    trained = read_array(folder / TRAINED, str(folder / TRAINED)) if (folder / TRAINED).is_file() else None
    if trained is not None and (trained.dtype != np.uint64 or trained.ndim != 1):
        raise ValueError(f"{folder / TRAINED} does not hold the keys of images")
    return SplitRecord(root, hashes, trained)


def keys(root: Path, names: Iterable[str]) -> np.ndarray:
    """Key (n,) uint64 of each image: a hash of its absolute path."""
    start = hashlib.blake2b(encodable(f"{root.resolve()}/").encode(), digest_size=8)
    found = []
    for name in names:
        own = start.copy()
        own.update(encodable(name).encode())
        found.append(own.digest())
    return np.frombuffer(b"".join(found), dtype=np.uint64)
