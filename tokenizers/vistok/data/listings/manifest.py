"""Images that a manifest lists: a CSV, TSV, JSON lines or parquet file with a row for each image.

A row has the path of an image, relative to the manifest's folder or absolute, and perhaps a label, a caption and a
split (``columns`` has the usual names).
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistok.data.columns import USUAL, find_columns
from vistok.data.folder_splits import NAMES
from vistok.data.listings.folder_images import VALUES
from vistok.data.listings.listing import Listing, Wanted
from vistok.data.listings.splits import Splits
from vistok.files import encodable

ROLES = ("path", "label", "caption", "split")
MOST_ROW = 2**24  # bytes of a row of text


class ManifestTable(NamedTuple):
    """Columns of a manifest, a value for each image."""

    paths: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    captions: Sequence[str] | None
    splits: Sequence[str] | None


class ManifestImages(Listing):
    """Image files in a manifest.

    Args:
        file: The manifest.
        table: Its columns.
    """

    kind = "manifest"
    single_files = True

    def __init__(self, file: Path, table: ManifestTable):
        self.file, self.root, self.table = file, file.parent, table
        self.names, self.classes = table.paths, table.classes
        self.about = encodable(str(file))
        self.as_values = any(name.lower().endswith(VALUES) for name in table.paths)

    def open(self, i: int) -> Path:
        return self.root / self.names[i]

    def where(self, i: int) -> str:
        return encodable(str(self.open(i)))

    def label(self, i: int) -> int | None:
        return None if self.table.labels is None else int(self.table.labels[i])

    def caption(self, i: int) -> str | None:
        return None if self.table.captions is None else self.table.captions[i]


def manifest_splits(
    file: Path, argument: str, wanted: Wanted = Wanted(), columns: Mapping[str, str] | None = None
) -> Splits:
    """Images of a manifest, by its column of splits if it has one.

    Args:
        file: The manifest.
        argument: The user's name of it with its value, for messages.
        wanted: Labels and captions to read. Labels that are not all whole numbers are names of classes, numbered in
            sorted order.
        columns: The user's names of columns, see ``find_columns``.

    Raises:
        ValueError: The file cannot be read, has no images, no column that is needed, or a row is wrong.
    """
    table = read_table(file, argument, wanted, columns)
    images = ManifestImages(file, table)
    if table.splits is None:
        return Splits(images)
    return split_by(images, table.splits, argument)


def split_by(images: Listing, splits: Sequence[str], argument: str) -> Splits:
    """Divides images by the name of the split of each.

    Raises:
        ValueError: None of the images is for training beside those for validation or for a test.
    """
    known = {name: split for split, names in NAMES.items() for name in names}
    of = np.array([known.get(name.strip().lower(), "") for name in splits])
    parts = {split: np.flatnonzero(of == split) for split in NAMES}
    unknown = sorted({name for name, split in zip(splits, of, strict=True) if not split})
    if not any(map(len, parts.values())):
        raise ValueError(f"{argument}: none of its splits {', '.join(map(repr, unknown[:5]))} is train, val or test")
    notes = []
    if unknown:
        count = int((of == "").sum())
        notes.append(f"not read: {count:,} images of the splits {', '.join(map(repr, unknown[:5]))} of {argument}")
    if len(parts["val"]) and len(parts["test"]):
        count = len(parts["test"])
        notes.append(f"{count:,} images of its test are neither trained on nor scored; {argument}@test scores them")
    val, test = (images.part(parts[split]) if len(parts[split]) else None for split in ("val", "test"))
    return Splits(images.part(parts["train"]), val, test, tuple(map(encodable, notes)), True)


def read_table(file: Path, argument: str, wanted: Wanted, columns: Mapping[str, str] | None) -> ManifestTable:
    """Reads a manifest. Errors: see ``manifest_splits``."""
    try:
        read = _of_parquet if file.suffix.lower() == ".parquet" else _of_text
        found, values = read(file, argument, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{argument} cannot be read: {error}") from error
    paths = [_path(value, argument, row) for row, value in enumerate(values["path"], 1)]
    if not paths:
        raise ValueError(f"{argument} has no images")
    if twice := _first_twice(paths):
        raise ValueError(f"{argument} lists {twice} twice")
    for role, need in (("label", wanted.labels), ("caption", wanted.captions)):
        if need == "needed" and found[role] is None:
            raise ValueError(f"data.{role}s=true: {argument} has no column {role}")
    labels, classes = None, None
    if found["label"] and wanted.labels != "none":
        labels, classes = numbered(values["label"], argument)
    captions = None
    if found["caption"] and wanted.captions != "none":
        captions = ["" if value is None else str(value) for value in values["caption"]]
    splits = ["" if value is None else str(value) for value in values["split"]] if found["split"] else None
    return ManifestTable(paths, labels, classes, captions, splits)


def numbered(labels: Sequence[Any], argument: str) -> tuple[Sequence[int], tuple[str, ...] | None]:
    """Numbers of labels, and the names of the classes if labels are not all whole numbers.

    Raises:
        ValueError: A label is missing or negative.
    """
    texts = ["" if label is None else str(label).strip() for label in labels]
    if "" in texts:
        raise ValueError(f"{argument}: image {texts.index('') + 1:,} has no label")
    try:
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        classes = sorted(set(texts))
        by_name = {name: i for i, name in enumerate(classes)}
        return np.array([by_name[text] for text in texts]), tuple(map(encodable, classes))
    if (numbers < 0).any() or (numbers >= 2**31).any():
        raise ValueError(
            f"{argument}: a label is {numbers[(numbers < 0) | (numbers >= 2**31)][0]}, not from 0 to 2^31 - 1"
        )
    return numbers, None


def _of_text(
    file: Path, argument: str, columns: Mapping[str, str] | None
) -> tuple[dict[str, str | None], dict[str, list[Any]]]:
    rows = _json_rows(file, argument) if file.suffix.lower() == ".jsonl" else _csv_rows(file, argument)
    found: dict[str, str | None] = {}
    values: dict[str, list[Any]] = {role: [] for role in ROLES}
    first: set[str] = set()
    for number, row in enumerate(rows, 1):
        if not found:
            found, first = _columns(list(row), columns, argument), set(row)
        if more := [name for name in row if name not in first and any(name.lower() in USUAL[role] for role in ROLES)]:
            raise ValueError(f"{argument}: image {number:,} has the column {more[0]}, which the first image has not")
        for role, name in found.items():
            if name is not None:
                values[role].append(row.get(name))
    return found or dict.fromkeys(ROLES), values


def _csv_rows(file: Path, argument: str) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        names = reader.fieldnames or ()
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{argument}: line {reader.line_num:,} has not {len(names)} values, as the first line")
            yield row


def _json_rows(file: Path, argument: str) -> Iterator[Mapping[str, Any]]:
    with file.open("rb") as opened:
        for number, line in enumerate(iter(lambda: opened.readline(MOST_ROW), b""), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{argument}: line {number:,} is not JSON: {error}") from error
            if type(row) is not dict:
                raise ValueError(f"{argument}: line {number:,} is not an object with a path")
            yield row


def _of_parquet(
    file: Path, argument: str, columns: Mapping[str, str] | None
) -> tuple[dict[str, str | None], dict[str, list[Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{argument} needs pyarrow: pip install 'vistok[parquet]'") from error
    try:
        opened = parquet.ParquetFile(file)
        found = _columns(opened.schema_arrow.names, columns, argument)
        read = opened.read([name for name in found.values() if name is not None])
        return found, {role: [] if name is None else read[name].to_pylist() for role, name in found.items()}
    except pyarrow.ArrowException as error:
        raise ValueError(f"{argument} cannot be read: {error}") from error


def _columns(names: Sequence[str], asked: Mapping[str, str] | None, argument: str) -> dict[str, str | None]:
    found = find_columns(names, ROLES, asked, argument)
    if found["path"] is None:
        raise ValueError(f"{argument} has no column with the paths of images, such as path, but {', '.join(names)}")
    return found


def _path(value: Any, argument: str, row: int) -> str:
    if type(value) is not str or not value or "\0" in value:
        raise ValueError(f"{argument}: image {row:,} has the path {value!r:.200}, which is not text")
    if "://" in value:
        raise ValueError(f"{argument}: image {row:,} is at {value:.200}: images of a table are files, not URLs")
    return os.path.expanduser(value)


def _first_twice(paths: Sequence[str]) -> str | None:
    if len(known := set(paths)) == len(paths):
        return None
    return next(path for path in paths if path not in known or known.remove(path))
