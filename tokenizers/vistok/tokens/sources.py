"""Images with labels in numbered parts; each part becomes one shard of tokens, on any rank."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vistok.data.columns import check_columns
from vistok.data.image_paths import LISTED, find_images
from vistok.data.listings.listing import Listing, Wanted
from vistok.data.listings.opening import open_listing
from vistok.data.shard_formats import columns_in, images_in, is_parquet
from vistok.data.shard_image import ShardContent
from vistok.data.shard_writer import INDEX as CONVERTED
from vistok.data.streams import caption_of
from vistok.data.tars import Url, expand, shard_name
from vistok.files import encodable
from vistok.untrusted.bounded_json import MAX_LISTING, read_json, short

UNLABELLED = -1


class Member(NamedTuple):
    """One image that is not yet decoded; without a name there is none."""

    name: str
    label: int  # UNLABELLED for an image without a label
    open: Callable[[], Path | BinaryIO]  # raises UnreadableImage
    passed_over: tuple[str, ...] = ()  # members of a tar beside the image, which are not read
    caption: Callable[[], str | None] | None = None  # where captions were asked for; raises UnreadableImage


class Source(ABC):
    """Images in parts.

    Attributes:
        about: Location of the images, for messages.
        parts: Number of parts.
        count: Number of images; None if unknown before they are read.
        classes: Names of the labels, if known.
        as_values: True if images are read as values, see ``Listing``.
        captions: True if captions were asked for.
    """

    about: str
    parts: int
    count: int | None
    classes: tuple[str, ...] | None
    as_values = False
    captions = False

    @abstractmethod
    def members(self, part: int) -> Iterator[Member]:
        """Images of a part, in a fixed order.

        Raises:
            UnreadableImage: The rest of the part cannot be read.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Description that identifies these images, for the header."""


class ListedSource(Source):
    """Listed images, such as those of a folder, with ``per_shard`` images in each part.

    If every image of a folder lies in a subfolder, the top-level folders are the classes, numbered in sorted order as
    in torchvision's ``ImageFolder``.

    Args:
        images: The images.
        per_shard: Number of images in a part; the last part may have fewer.
        captions: True gives the captions of the images.
    """

    def __init__(self, images: Listing, per_shard: int, captions: bool = False):
        self.images, self.per_shard, self.captions = images, per_shard, captions
        self.about, self.count, self.classes = images.about, len(images), images.classes
        self.parts, self.as_values = -(-self.count // per_shard), images.as_values

    def members(self, part: int) -> Iterator[Member]:
        for i in range(part * self.per_shard, min(self.count, (part + 1) * self.per_shard)):
            label = self.images.label(i)
            number = UNLABELLED if label is None else label
            caption = partial(self.images.caption, i) if self.captions else None
            yield Member(encodable(self.images.names[i]), number, partial(self.images.open, i), (), caption)

    def identity(self) -> dict[str, Any]:
        return self.images.identity() | {"per_shard": self.per_shard} | ({"captions": True} if self.captions else {})


class ShardSource(Source):
    """Webdataset tars and parquet files, each one a part; a label is the digits in ``KEY.cls``, or a column.

    Names of classes are read from the first parquet file, or from the ``index.json`` of ``data.shard_writer`` beside
    the first tar, if it exists.

    Args:
        urls: Paths and URLs as ``data.urls`` of training takes them.
        captions: True gives the caption of each image: ``KEY.txt``, or a column.
        columns: Columns of parquet files by their roles, see ``ShardContent``.
    """

    def __init__(self, urls: Sequence[str], captions: bool = False, columns: Mapping[str, str] | None = None):
        check_columns(columns)
        self.urls, self.captions = expand(list(urls), "--images"), captions
        asked = ("caption",) * captions
        self.content = ShardContent(("label", *asked), columns, asked)
        self.about, self.parts, self.count = encodable(", ".join(urls)), len(self.urls), None
        if is_parquet(self.urls[0]):
            columns = columns_in(self.urls[0], self.content)
            self.classes = columns.classes if columns else None
        else:
            self.classes = None if isinstance(self.urls[0], Url) else _classes(Path(self.urls[0]).parent / CONVERTED)

    def members(self, part: int) -> Iterator[Member]:
        url = self.urls[part]
        for image in images_in(url, self.content):
            others = tuple(encodable(f"{shard_name(url)}:{other}") for other in image.passed_over)
            known = encodable(f"{shard_name(url)}:{image.name}") if image.name else ""
            label = self._label(url, image.name, image.label)
            caption = partial(caption_of, image) if self.captions else None
            yield Member(known, label, image.open, others, caption)

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
        kind = "parquet" if is_parquet(self.urls[0]) else "tars"
        shards = [encodable(shard_name(url)) for url in self.urls]
        return {"kind": kind, "shards": shards} | ({"captions": True} if self.captions else {})


def _classes(index: Path) -> tuple[str, ...] | None:
    """Names of the labels in an ``index.json`` of ``data.shard_writer``; None if the file or the names are missing."""
    content = read_json(index, MAX_LISTING) if index.is_file() else {}
    classes = content.get("classes") if type(content) is dict else None
    if classes is not None and (type(classes) is not list or not all(type(name) is str for name in classes)):
        raise ValueError(f"{index}: classes={short(classes)} is not a list of names")
    return None if classes is None else tuple(map(encodable, classes))


def open_source(
    data: Sequence[str], per_shard: int, captions: bool = False, columns: Mapping[str, str] | None = None
) -> Source:
    """Opens the user's images: shards, or one source of ``image_paths``, with their captions if asked for.

    ``columns`` are those of a table by their roles, see ``columns.find_columns``.

    Raises:
        ValueError: There is no such source, or it has splits of which one must be named.
    """
    found = find_images(data, "--images", (*LISTED, "shards"))
    if found.kind == "shards":
        return ShardSource(data, captions, columns)
    wanted = Wanted("known", "needed" if captions else "none")
    return ListedSource(open_listing(data[0], "--images", wanted, columns), per_shard, captions)
