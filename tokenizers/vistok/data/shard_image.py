"""An image of a shard in any format, and the facts that are read of it."""

import io
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

from vistok.images.rgb import UnreadableImage


class ShardImage(NamedTuple):
    """An image of a shard with its bytes."""

    name: str  # in its shard; empty text for a sample of a tar without an image
    data: bytes = b""
    label: bytes | None = None  # digits: content of ``KEY.cls`` in a tar
    passed_over: tuple[str, ...] = ()  # names of other images and labels of the sample, which are not read
    caption: bytes | None = None  # UTF-8: content of ``KEY.txt`` in a tar
    problem: str = ""  # reason why it cannot be read

    def open(self) -> BinaryIO:
        """The image file.

        Raises:
            UnreadableImage: It cannot be read.
        """
        if self.problem:
            raise UnreadableImage(self.problem)
        return io.BytesIO(self.data)


class ShardContent(NamedTuple):
    """Facts that are read of each image."""

    roles: tuple[str, ...] = ()  # beside the image: label, caption
    columns: Mapping[str, str] | None = None  # the user's data.columns: columns of parquet files by their roles
    needed: tuple[str, ...] = ()  # roles without which a parquet file is refused, and an image is unreadable

    @classmethod
    def of(
        cls, labels: bool = False, captions: bool = False, columns: Mapping[str, str] | None = None
    ) -> "ShardContent":
        """Content for a data set that needs labels, captions or both."""
        roles = ("label",) * labels + ("caption",) * captions
        return cls(roles, columns, needed=roles)
