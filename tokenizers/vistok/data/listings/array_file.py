"""Images in an ``.npz`` file of arrays.

| arrays | images |
| --- | --- |
| ``data``, ``offsets``, ``labels``, ``classes`` | files one after another: bytes, n + 1 offsets, a label each, names |
| ``arr_0`` (n, h, w, 3) uint8 | all images in one array, as ADM's evaluator reads it |
| any names, (h, w) or (h, w, k) each | an image each |
"""

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vistok.data.listings.listing import Listing, Wanted
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage
from vistok.untrusted.arrays import read_array

ORDERED = "arr_0"  # name of a single array with all images
PACKED = ("data", "offsets", "labels")  # names of the arrays of concatenated files
CLASSES = "classes"


class ArrayFile(Listing):
    """Common facts of listings of an ``.npz`` file."""

    kind = "npz"

    def __init__(self, path: Path, names: Sequence[str]):
        self.root, self.names, self.about = path, names, encodable(str(path))


class PackedFiles(ArrayFile):
    """Image files one after another in one array, with labels."""

    def __init__(self, path: Path, archive: "Archive", wanted: Wanted):
        self.data, self.offsets, self.labels = (archive.array(name) for name in PACKED)
        for name, array in (("offsets", self.offsets), ("labels", self.labels)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"{path}: {name} must be a row of integers, not {_form(array)}")
        count = len(self.offsets) - 1
        lengths = np.diff(self.offsets.astype(np.int64))
        if self.data.dtype != np.uint8 or self.data.ndim != 1:
            raise ValueError(f"{path}: data must be bytes in a row, not {self.data.dtype} of shape {self.data.shape}")
        if count < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.data) or (lengths < 0).any():
            raise ValueError(f"{path}: offsets must rise from 0 to the {len(self.data):,} bytes of data")
        if len(self.labels) != count:
            raise ValueError(f"{path}: {len(self.labels):,} labels for {count:,} images")
        super().__init__(path, [f"{i:08d}" for i in range(count)])
        self.labelled = wanted.labels != "none"
        if self.labelled and CLASSES in archive.names:
            self.classes = tuple(map(str, archive.array(CLASSES).ravel()))

    def open(self, i: int) -> BinaryIO:
        return io.BytesIO(self.data[self.offsets[i] : self.offsets[i + 1]].tobytes())

    def label(self, i: int) -> int | None:
        return int(self.labels[i]) if self.labelled else None


class StackedArray(ArrayFile):
    """All images in one array (n, h, w, k), which has only an order."""

    ordered = True

    def __init__(self, path: Path, images: np.ndarray):
        super().__init__(path, [f"{i:08d}" for i in range(len(images))])
        self.images = images  # memory-mapped if it is not compressed
        self.as_values = not _is_rgb(images[0])
        self.form = f"{images.dtype} {images.shape}"

    def open(self, i: int) -> BinaryIO:
        return as_file(self.images[i])


class NamedArrays(ArrayFile):
    """An array (h, w) or (h, w, k) for each image, under its name."""

    def __init__(self, path: Path, archive: "Archive"):
        super().__init__(path, archive.names)
        self.archive = archive
        self.as_values = not _is_rgb(archive.array(self.names[0]))

    def open(self, i: int) -> BinaryIO:
        return as_file(self.archive.read(self.names[i]))


class Archive:
    """Arrays of an ``.npz`` file, by name.

    Args:
        path: The file.

    Raises:
        ValueError: It is not such a file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as opened:
                self.names = [name.removesuffix(".npy") for name in opened.namelist() if name.endswith(".npy")]
        except Exception as error:  # no archive, or a damaged one
            raise ValueError(f"{path} cannot be read as an .npz file: {error!r}") from error

    def array(self, name: str) -> np.ndarray:
        """Array, memory-mapped if it is not compressed.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            return array_in(self.path, name)
        except Exception as error:  # a missing array, a damaged one, or one larger than memory
            raise ValueError(f"{self.path}: {name} cannot be read: {error!r}") from error

    def read(self, name: str) -> np.ndarray:
        """Array of one image.

        Raises:
            UnreadableImage: It cannot be read.
        """
        try:
            with zipfile.ZipFile(self.path) as opened:
                return read_array(opened.read(f"{name}.npy"), f"{self.path}: {name}")
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise UnreadableImage(str(error)) from error


def open_arrays(path: Path, argument: str, wanted: Wanted = Wanted()) -> Listing:
    """Images of an ``.npz`` file.

    Raises:
        ValueError: The file cannot be read, or holds no images.
    """
    if not path.is_file():
        raise ValueError(f"{argument}: there is no {path}")
    archive = Archive(path)
    if set(PACKED) <= set(archive.names):
        return PackedFiles(path, archive, wanted)
    if wanted.labels == "needed":
        raise ValueError(f"data.labels=true: {path} has no labels; it needs arrays {', '.join(PACKED)}")
    if ORDERED in archive.names and (found := archive.array(ORDERED)).ndim == 4:
        if not len(found):
            raise ValueError(f"{path} has no images")
        return StackedArray(path, found)
    if not archive.names:
        raise ValueError(f"{path} has no images")
    images = NamedArrays(path, archive)
    if (first := archive.array(images.names[0])).ndim not in (2, 3):
        raise ValueError(
            f"{path} holds no images: {images.names[0]} is {_form(first)}, not (h, w) or (h, w, k); "
            f"or it needs {', '.join((*PACKED, CLASSES))}"
        )
    return images


def as_file(array: np.ndarray) -> BinaryIO:
    """Image array as an open file: a PPM file for 8-bit RGB, else a ``.npy`` file."""
    array = np.ascontiguousarray(array)
    if _is_rgb(array):
        return io.BytesIO(b"P6 %d %d 255\n" % (array.shape[1], array.shape[0]) + array.tobytes())
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    file.seek(0)
    return file


def array_in(path: Path, name: str) -> np.ndarray:
    """Array of an ``.npz`` file, memory-mapped if it is not compressed."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            major, _ = np.lib.format.read_magic(member)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(member)
            length = member.tell()
    if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or not np.prod(shape):
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the name and of the extra field before the contents
        before = sum(struct.unpack("<HH", file.read(4)))
    start = info.header_offset + 30 + before + length
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _is_rgb(array: Any) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
