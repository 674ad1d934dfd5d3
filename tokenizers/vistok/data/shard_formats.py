"""Images of a shard in the format that its name says: a parquet file (``.parquet``), else a tar."""

from collections.abc import Iterator
from pathlib import Path

from vistok.data import parquet_samples, tar_samples
from vistok.data.image_columns import ImageColumns, UnknownColumns
from vistok.data.shard_image import ShardContent, ShardImage
from vistok.data.tar_index import names_in_shard
from vistok.data.tars import shard_name
from vistok.images.rgb import UnreadableImage

PARQUET = ".parquet"


def is_parquet(url: str) -> bool:
    """True for a parquet file, by its name."""
    return shard_name(url).lower().endswith(PARQUET)


def images_in(url: str, content: ShardContent = ShardContent()) -> Iterator[ShardImage]:
    """Images of a shard in order; a sample of a tar without an image has no name.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
        ValueError: Pyarrow is not installed, or a parquet file is behind a URL that is read from its beginning only.
    """
    if is_parquet(url):
        return parquet_samples.images_of_parquet(url, content)
    return tar_samples.images_in(url, "caption" in content.roles)


def names_in(path: Path, content: ShardContent = ShardContent()) -> list[str]:
    """Names of the images that ``images_in`` reads of a shard on disk.

    Raises:
        UnreadableImage: The file is neither a parquet file nor a complete, uncompressed tar.
    """
    if is_parquet(str(path)):
        return parquet_samples.names_in_parquet(path, content)
    return names_in_shard(path)


def columns_in(url: str, content: ShardContent) -> ImageColumns | None:
    """Columns of a parquet file; None for a tar, and for a file that cannot be opened (an error when it is read).

    Raises:
        UnknownColumns: The file has no such columns.
        ValueError: Pyarrow is not installed, or the URL can only be read from its beginning.
    """
    if not is_parquet(url):
        return None
    try:
        return parquet_samples.columns_of_parquet(url, content)
    except UnknownColumns:
        raise
    except UnreadableImage:
        return None
