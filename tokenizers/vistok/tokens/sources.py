"""Images with their labels in numbered parts; each part becomes one shard of tokens, by whichever rank."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vistok.data.image_folder import list_images
from vistok.data.shard_writer import INDEX as CONVERTED
from vistok.data.tars import Url, expand, labelled_images_in, shard_name
from vistok.files import encodable
from vistok.untrusted.bounded_json import MAX_LISTING, read_json, short

UNLABELLED = -1


class Member(NamedTuple):
    """One image that is not decoded yet."""

    name: str
    label: int  # UNLABELLED where there is none
    file: Path | BinaryIO


class Source(ABC):
    """Images in parts.

    Attributes:
        about: Where they come from, for messages.
        parts: Their number.
        count: Images in all; None where only reading them tells.
        classes: The names of the labels, where they are known.
    """

    about: str
    parts: int
    count: int | None
    classes: tuple[str, ...] | None

    @abstractmethod
    def members(self, part: int) -> Iterator[Member]:
        """The images of a part, in an order that never changes.

        Raises:
            UnreadableImage: The rest of the part cannot be read.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells these images from others, for the header."""


class FolderSource(Source):
    """All images below a folder, sorted by their paths, ``per_shard`` in each part.

    Where every image lies in a subfolder, the first folders are the classes, numbered in sorted order as torchvision's
    ``ImageFolder`` does.

    Args:
        root: The folder.
        per_shard: Images in a part; the last may have fewer.

    Raises:
        ValueError: It has no images, or a split that must be chosen from.
    """

    def __init__(self, root: Path, per_shard: int):
        if (root / "train").is_dir() and (root / "val").is_dir():
            raise ValueError(f"{root} has the subfolders train and val: name one of them")
        self.root, self.files, self.per_shard = root, list_images(root), per_shard
        if not self.files:
            raise ValueError(f"{root}: no images found")
        self.about, self.count, self.parts = encodable(str(root)), len(self.files), -(-len(self.files) // per_shard)
        folders = [name.partition("/")[0] if "/" in name else None for name in self.files]
        labelled = None not in folders
        classes = sorted(set(folders)) if labelled else []
        self.classes = tuple(map(encodable, classes)) if labelled else None
        self.numbers = {name: i for i, name in enumerate(classes)}

    def members(self, part: int) -> Iterator[Member]:
        first = part * self.per_shard
        for name in self.files[first : first + self.per_shard]:
            yield Member(encodable(name), self.numbers.get(name.partition("/")[0], UNLABELLED), self.root / name)

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "images": self.count,
            "sha256_of_names": hashlib.sha256(encodable("\n".join(self.files)).encode()).hexdigest(),
            "per_shard": self.per_shard,
        }


class TarSource(Source):
    """Webdataset tars, each one a part; ``KEY.cls`` beside an image is its label in digits.

    Names of classes are taken from the ``index.json`` of ``data.shard_writer`` beside the first tar, if there is one.

    Args:
        urls: As ``data.urls`` of training takes them.
    """

    def __init__(self, urls: Sequence[str]):
        self.urls = expand(list(urls), "--images")
        self.about, self.parts, self.count = encodable(", ".join(urls)), len(self.urls), None
        self.classes = None if isinstance(self.urls[0], Url) else _classes(Path(self.urls[0]).parent / CONVERTED)

    def members(self, part: int) -> Iterator[Member]:
        url = self.urls[part]
        for name, data, label in labelled_images_in(url):
            yield Member(encodable(f"{shard_name(url)}:{name}"), self._label(url, name, label), io.BytesIO(data))

    def _label(self, url: str, name: str, digits: bytes | None) -> int:
        if digits is None:
            return UNLABELLED
        try:
            label = int(digits)
        except ValueError as error:
            raise ValueError(f"{url}: the label of {name} is {digits[:40]!r}, not a number") from error
        if not 0 <= label < 2**31 or (self.classes is not None and label >= len(self.classes)):
            known = f", but there are {len(self.classes)} classes" if self.classes else ""
            raise ValueError(f"{url}: the label of {name} is {label}{known}")
        return label

    def identity(self) -> dict[str, Any]:
        return {"kind": "tars", "shards": [encodable(shard_name(url)) for url in self.urls]}


def _classes(index: Path) -> tuple[str, ...] | None:
    """The names of the labels in an ``index.json`` of ``data.shard_writer``, where there is one that has them."""
    content = read_json(index, MAX_LISTING) if index.is_file() else {}
    classes = content.get("classes") if type(content) is dict else None
    if classes is not None and (type(classes) is not list or not all(type(name) is str for name in classes)):
        raise ValueError(f"{index}: classes={short(classes)} is no list of names")
    return None if classes is None else tuple(map(encodable, classes))


def open_source(data: Sequence[str], per_shard: int) -> Source:
    """What the user named: one folder of images, or tars.

    Raises:
        ValueError: It is neither.
    """
    folders = [name for name in data if Path(name).expanduser().is_dir()]
    if folders and len(data) > 1:
        raise ValueError(f"--images is one folder or several tars, not {' '.join(data)}")
    if folders:
        return FolderSource(Path(folders[0]).expanduser(), per_shard)
    npz = [name for name in data if name.endswith(".npz")]
    if npz:
        raise ValueError(
            f"{npz[0]} is an .npz file: python -m vistok data shards --images {npz[0]} --out SHARDS makes tars of it"
        )
    return TarSource(data)
