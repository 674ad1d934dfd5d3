"""Images on disk that are read by name: a folder, tars, or arrays."""

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vistok.data.folder_listing import list_images
from vistok.data.image_paths import kind_of
from vistok.data.shard_writer import array_in
from vistok.data.tar_index import images_of_tar
from vistok.data.tars import expand
from vistok.files import encodable, sha256_of, sha256_of_lines
from vistok.images.decoding import read_rgb
from vistok.images.large import View
from vistok.images.rgb import UnreadableImage
from vistok.untrusted.arrays import read_array

ORDERED = "arr_0"  # name of a single array with all images, as ADM's evaluator reads it


class ImagesByName(ABC):
    """Images that are read one by one, in any order.

    Attributes:
        kind: ``folder``, ``tar`` or ``npz``.
        names: Names of the images; None if they have only an order.
    """

    kind: str
    names: Sequence[str] | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, i: int, stored: bool = False) -> Image.Image | View:
        """The i-th image, upright, as 8-bit RGB.

        Args:
            i: Index of the image.
            stored: True decodes it as it is stored (see ``read_rgb``); no effect on arrays.

        Raises:
            UnreadableImage: It is no image, or damaged.
        """

    @abstractmethod
    def sha256(self) -> str:
        """Hash of all files."""


class FolderImages(ImagesByName):
    """All image files below a folder, by their relative paths."""

    kind = "folder"

    def __init__(self, root: Path):
        self.root, self.files = root, list_images(root)
        self.names = [encodable(file) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int, stored: bool = False) -> Image.Image | View:
        return read_rgb(self.root / self.files[i], stored=stored)

    def sha256(self) -> str:
        hashes = (sha256_of(self.root / file) for file in self.files)
        return sha256_of_lines(f"{name} {own}" for name, own in zip(self.names, hashes, strict=True))


class TarImages(ImagesByName):
    """All image files in uncompressed tars, by the names of the members."""

    kind = "tar"

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self.members = [(path, member) for path in self.paths for member in images_of_tar(path)]
        self.names = [encodable(member.name.removeprefix("./")) for _, member in self.members]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, i: int, stored: bool = False) -> Image.Image | View:
        path, member = self.members[i]
        with path.open("rb") as file:
            file.seek(member.offset)
            return read_rgb(io.BytesIO(file.read(member.size)), stored=stored)

    def sha256(self) -> str:
        return sha256_of_lines(map(sha256_of, self.paths))


class ArrayImages(ImagesByName):
    """An ``.npz`` file of uint8 arrays: ``arr_0`` (n, h, w, 3), or one (h, w, 3) for each image under its name."""

    kind = "npz"

    def __init__(self, path: Path):
        self.path, self.all = path, None  # all: (n, h, w, 3), memory-mapped if it is not compressed
        try:
            self.archive = zipfile.ZipFile(path)
            entries = [name.removesuffix(".npy") for name in self.archive.namelist()]
            if ORDERED in entries and (found := array_in(path, ORDERED)).ndim == 4:
                self.all = found
        except Exception as error:  # no archive, a damaged one, or an array larger than memory
            raise ValueError(f"{path} cannot be read as an .npz file: {error!r}") from error
        self.entries = entries
        self.names = None if self.all is not None else entries
        if self.all is not None and (self.all.dtype != np.uint8 or self.all.shape[3] != 3):
            raise ValueError(f"{path}: {ORDERED} is {_form(self.all)}, not uint8 (n, h, w, 3)")

    def __len__(self) -> int:
        return len(self.entries) if self.all is None else len(self.all)

    def read(self, i: int, stored: bool = False) -> Image.Image:
        if self.all is not None:
            return Image.fromarray(np.ascontiguousarray(self.all[i]))
        name = self.entries[i]
        try:
            array = read_array(self.archive.read(f"{name}.npy"), f"{self.path}: {name}")
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise UnreadableImage(str(error)) from error
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UnreadableImage(f"it is {_form(array)}, not uint8 (h, w, 3)")
        return Image.fromarray(np.ascontiguousarray(array))

    def sha256(self) -> str:
        return sha256_of(self.path)


def open_images(source: str, argument: str) -> ImagesByName:
    """Opens images that are read by name.

    Args:
        source: A folder, an ``.npz`` file, or a tar; braces and ``*`` name several tars.
        argument: The user's name of the argument, for messages.

    Raises:
        ValueError: There is no such source, it has no images, or it is a compressed tar.
    """
    kind, path = kind_of(source), Path(os.path.expanduser(source))
    if kind in ("folder", "split"):
        images: ImagesByName = FolderImages(path)
    elif kind == "arrays":
        images = ArrayImages(path)
    else:
        try:
            images = TarImages([Path(shard) for shard in expand(source, argument)])
        except UnreadableImage as error:
            raise ValueError(f"{argument}={source} is neither a folder, a tar nor an .npz file: {error}") from error
    if not len(images):
        raise ValueError(f"{argument}={source} has no images")
    return images


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
