"""Images of a parquet file with their bytes, labels and captions, read row by row.

The memory needed is that of a page of each column, which writers fill with 1 MiB or one row group, and of one row.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistok.data.image_cells import PATH, bytes_of, label_of_cell, path_of
from vistok.data.image_columns import ImageColumns, image_columns, is_image
from vistok.data.shard_image import ShardContent, ShardImage
from vistok.data.tars import Url
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage
from vistok.untrusted.bounded_json import one_line

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BUFFER = 2**20  # bytes that are read at once
MOST_NAMED = 1_000_000  # rows of a file whose images may have their paths as names


def columns_of_parquet(url: str, content: ShardContent = ShardContent()) -> ImageColumns:
    """Columns of a parquet file, see ``image_columns``.

    Raises:
        UnreadableImage: The file cannot be opened.
        UnknownColumns: It has no such columns.
        ValueError: Pyarrow is not installed, or a URL is of a kind that cannot be read.
    """
    with _opened(url) as file:
        schema = file.schema_arrow
    return image_columns(schema, content, encodable(url))


def images_of_parquet(url: str, content: ShardContent = ShardContent()) -> Iterator[ShardImage]:
    """Images of a parquet file, one for each row, in order; a row without an image has the reason.

    An image that is not in the file, but has the path of one, is read from there: relative paths begin at the folder
    of the parquet file. The name of an image is its path if all rows have one and no two are equal, else its row,
    counted from 0.

    Args:
        url: Path of the file, or a ``Url`` that fsspec opens.
        content: Facts that are read of each row.

    Raises:
        UnreadableImage: The file cannot be opened, has no such columns, or cannot be read to its end.
        ValueError: pyarrow is not installed, or the URL is of a kind that cannot be read.
    """
    with _opened(url) as file:
        columns = image_columns(file.schema_arrow, content, encodable(url))
        named = _has_unique_paths(file, columns)
        folder = None if isinstance(url, Url) else Path(url).parent
        for row, values in enumerate(_rows(file, columns.names)):
            image = values[columns.image]
            path = path_of(image)
            label = label_of_cell(values.get(columns.label or ""), columns.classes is not None)
            caption = values.get(columns.caption or "")
            sample = ShardImage(
                path if named and path else str(row),
                label=None if label is None else b"%d" % label,
                caption=None if caption is None else caption.encode(),
            )
            try:
                if label is None and "label" in content.needed:
                    raise UnreadableImage(f"it has no label: {columns.label} is {values[str(columns.label)]}")
                if caption is None and "caption" in content.needed:
                    raise UnreadableImage(f"it has no caption: {columns.caption} is null")
                yield sample._replace(data=bytes_of(image, folder))
            except UnreadableImage as error:
                yield sample._replace(problem=str(error))


def has_images(path: Path) -> bool:
    """True for a parquet file with the bytes of images; False for others, such as one with their paths.

    Raises:
        UnreadableImage: The file cannot be opened.
        ValueError: Pyarrow is not installed.
    """
    with _opened(str(path)) as file:
        return any(is_image(field.type) for field in file.schema_arrow)


def names_in_parquet(path: Path, content: ShardContent = ShardContent()) -> list[str]:
    """Names of the images that ``images_of_parquet`` reads. Errors: see there."""
    with _opened(str(path)) as file:
        columns = image_columns(file.schema_arrow, content, encodable(str(path)))
        if _has_unique_paths(file, columns):
            return [name for name in _paths(file, columns) if name is not None]
        return list(map(str, range(file.metadata.num_rows)))


def _rows(file: "ParquetFile", columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows with the values of some columns. One by one: a page of a few bytes may stand for rows of any size."""
    for batch in file.iter_batches(1, columns=columns, use_threads=False):  # loaders' workers are the threads
        yield from batch.to_pylist()


def _paths(file: "ParquetFile", columns: ImageColumns) -> Iterator[str | None]:
    """Path of each image."""
    for row in _rows(file, [f"{columns.image}.{PATH}"]):
        yield path_of(row[columns.image])


def _has_unique_paths(file: "ParquetFile", columns: ImageColumns) -> bool:
    if not columns.struct or file.metadata.num_rows > MOST_NAMED:
        return False
    if file.schema_arrow.field(columns.image).type.get_field_index(PATH) < 0:
        return False
    hashes: set[bytes] = set()
    for path in _paths(file, columns):
        if path is None:
            return False
        hashes.add(hashlib.blake2b(encodable(path).encode(), digest_size=16).digest())
    return len(hashes) == file.metadata.num_rows


@contextmanager
def _opened(url: str) -> Iterator["ParquetFile"]:
    """Parquet file; all errors while it is open become ``UnreadableImage``."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{encodable(url)} needs pyarrow: pip install 'vistok[parquet]'") from error
    if isinstance(url, Url):
        check_url(url)
    options: dict[str, Any] = {"buffer_size": BUFFER, "pre_buffer": False, "page_checksum_verification": True}
    try:
        with _seekable(url) as source, parquet.ParquetFile(source, **options) as file:
            yield file
    except UnreadableImage:
        raise
    except Exception as error:  # errors of a file system, a server, a damaged file
        raise UnreadableImage(f"{encodable(url)}: {type(error).__name__}: {one_line(error)}") from error


def _seekable(url: str) -> Any:
    """The file, which can be read at any place."""
    if not isinstance(url, Url):
        return open(url, "rb")
    import fsspec

    return fsspec.open(url, "rb")


def check_url(url: Url) -> None:
    """Refuses URLs that can only be read from their beginning: a parquet file is read from its end.

    Raises:
        ValueError: fsspec has no such URLs, or a package for them is not installed.
    """
    import fsspec

    try:
        fsspec.get_filesystem_class(url.partition(":")[0])
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{url}: a parquet file is read from its end, which needs a file, or a URL that fsspec opens: "
            f"{one_line(error)}"
        ) from error
