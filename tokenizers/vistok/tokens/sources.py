"""Images with labels in numbered parts; each part becomes one shard of tokens, on any rank."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vistok.data.folder_listing import list_images, nothing_found
from vistok.data.folder_splits import split_of
from vistok.data.image_paths import find_images, kind_of
from vistok.data.shard_writer import INDEX as CONVERTED
from vistok.data.tar_samples import images_in
from vistok.data.tars import Url, expand, shard_name
from vistok.files import encodable, sha256_of_lines
from vistok.untrusted.bounded_json import MAX_LISTING, read_json, short

UNLABELLED = -1


class Member(NamedTuple):
    """One image that is not yet decoded; without a name there is none."""

    name: str
    label: int  # UNLABELLED for an image without a label
    file: Path | BinaryIO
    passed_over: tuple[str, ...] = ()  # members of a tar beside the image, which are not read


class Source(ABC):
    """Images in parts.

    Attributes:
        about: Location of the images, for messages.
        parts: Number of parts.
        count: Number of images; None if unknown before they are read.
        classes: Names of the labels, if known.
    """

    about: str
    parts: int
    count: int | None
    classes: tuple[str, ...] | None

    @abstractmethod
    def members(self, part: int) -> Iterator[Member]:
        """Images of a part, in a fixed order.

        Raises:
            UnreadableImage: The rest of the part cannot be read.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Description that identifies these images, for the header."""


class FolderSource(Source):
    """All images below a folder, sorted by path, with ``per_shard`` images in each part.

    If every image lies in a subfolder, the top-level folders are the classes, numbered in sorted order as in
    torchvision's ``ImageFolder``.

    Args:
        root: The folder.
        per_shard: Number of images in a part; the last part may have fewer.

    Raises:
        ValueError: The folder has no images, or has splits of which one must be named.
    """

    def __init__(self, root: Path, per_shard: int):
        if split := split_of(root):
            raise ValueError(f"{root} has the splits {split.names}: name one of them")
        self.root, self.files, self.per_shard = root, list_images(root), per_shard
        if not self.files:
            raise ValueError(nothing_found(root))
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
            "sha256_of_names": sha256_of_lines(self.files),
            "per_shard": self.per_shard,
        }


class TarSource(Source):
    """Webdataset tars, each one a part; ``KEY.cls`` beside an image is its label in digits.

    Names of classes are read from the ``index.json`` of ``data.shard_writer`` beside the first tar, if it exists.

    Args:
        urls: Paths and URLs as ``data.urls`` of training takes them.
    """

    def __init__(self, urls: Sequence[str]):
        self.urls = expand(list(urls), "--images")
        self.about, self.parts, self.count = encodable(", ".join(urls)), len(self.urls), None
        self.classes = None if isinstance(self.urls[0], Url) else _classes(Path(self.urls[0]).parent / CONVERTED)

    def members(self, part: int) -> Iterator[Member]:
        url = self.urls[part]
        for name, data, label, passed_over in images_in(url):
            others = tuple(encodable(f"{shard_name(url)}:{other}") for other in passed_over)
            known = encodable(f"{shard_name(url)}:{name}") if name else ""
            yield Member(known, self._label(url, name, label), io.BytesIO(data), others)

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
    """Names of the labels in an ``index.json`` of ``data.shard_writer``; None if the file or the names are missing."""
    content = read_json(index, MAX_LISTING) if index.is_file() else {}
    classes = content.get("classes") if type(content) is dict else None
    if classes is not None and (type(classes) is not list or not all(type(name) is str for name in classes)):
        raise ValueError(f"{index}: classes={short(classes)} is not a list of names")
    return None if classes is None else tuple(map(encodable, classes))


def open_source(data: Sequence[str], per_shard: int) -> Source:
    """Opens the user's data: one folder of images, or tars.

    Raises:
        ValueError: The data is neither.
    """
    npz = [name for name in data if kind_of(name) == "arrays"]
    if npz:
        raise ValueError(
            f"{npz[0]} is an .npz file: python -m vistok data shards --images {npz[0]} --out SHARDS makes tars of it"
        )
    kind, path, _ = find_images(data, "--images", ("folder", "split", "shards"))
    return TarSource(data) if kind == "shards" else FolderSource(path, per_shard)
