"""Images in uncompressed tars on disk, each read alone."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from vistok.data.listings.listing import Listing
from vistok.data.tar_index import images_of_tar
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage


class TarMembers(Listing):
    """All image files in tars, by the names of the members.

    Args:
        paths: The tars.

    Raises:
        UnreadableImage: A file is not a complete, uncompressed tar.
    """

    kind = "tar"

    def __init__(self, paths: Sequence[Path]):
        self.paths, self.root = list(paths), paths[0]
        self.members = [(path, member) for path in self.paths for member in images_of_tar(path)]
        self.names = [encodable(member.name.removeprefix("./")) for _, member in self.members]
        self.about = encodable(", ".join(map(str, paths)))

    def open(self, i: int) -> BinaryIO:
        path, member = self.members[i]
        try:
            with path.open("rb") as file:
                file.seek(member.offset)
                return io.BytesIO(file.read(member.size))
        except OSError as error:
            raise UnreadableImage(f"{path}: {error}") from error

    def files(self) -> Iterable[str | os.PathLike]:
        return self.paths
