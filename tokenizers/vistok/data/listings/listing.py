"""Contract of a listing, and parts of listings."""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from vistok.files import encodable, sha256_of, sha256_of_lines

Need = Literal["none", "known", "needed"]  # of labels or captions: not read; read where there are any; an error if not


class Wanted(NamedTuple):
    """Facts beside the images that are asked for."""

    labels: Need = "none"
    captions: Need = "none"


class Listing(ABC):
    """Images with their names, labels and captions.

    Attributes:
        kind: Kind of the source, for the headers of token files: ``folder``, ``manifest``, ``npz``, ``tar`` or ``hub``.
        about: Location of the images, for messages.
        root: Folder that the names are relative to, or the file that they are in.
        names: Unique names of the images, as their source spells them.
        classes: Names of the labels by number, where labels were asked for and have names.
        ordered: True if the images have only an order, so that the names are numbers.
        single_files: True if each image is a file of its own.
        as_values: True if there are images that are not 8-bit RGB, such as DICOM files, so that all are read as values.
    """

    kind: str
    about: str
    root: Path
    names: Sequence[str]
    classes: tuple[str, ...] | None = None
    ordered = False
    as_values = False
    single_files = False

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def open(self, i: int) -> Path | BinaryIO:
        """Path of the i-th image, or its bytes as an open file.

        Raises:
            UnreadableImage: The bytes cannot be read.
        """

    def where(self, i: int) -> str:
        """Printable location of the i-th image, for messages."""
        return encodable(f"{self.about}:{self.names[i]}")

    def label(self, i: int) -> int | None:
        """Label of the i-th image; None if it has none, or labels were not asked for."""
        return None

    def caption(self, i: int) -> str | None:
        """Caption of the i-th image; None if it has none, or captions were not asked for.

        Raises:
            UnreadableImage: It was needed, and cannot be read.
        """
        return None

    def sha256(self) -> str:
        """Hash of all files."""
        if not self.single_files:
            return sha256_of_lines(sha256_of(Path(file)) for file in self.files())
        files = zip(self.names, self.files(), strict=True)
        return sha256_of_lines(f"{encodable(name)} {sha256_of(Path(file))}" for name, file in files)

    def files(self) -> Iterable[str | os.PathLike]:
        """Files that the images are read from; their sizes and times show that no image was replaced."""
        return (self.open(i) for i in range(len(self))) if self.single_files else [self.root]

    def identity(self) -> dict[str, Any]:
        """Description that identifies these images, for the headers of token files."""
        return {"kind": self.kind, "images": len(self), "sha256_of_names": sha256_of_lines(self.names)}

    def part(self, chosen: Sequence[int] | np.ndarray) -> "Listing":
        """Some of these images, in the order of their indices ``chosen``."""
        return ListingPart(self, chosen)


class ListingPart(Listing):
    """Some images of a listing.

    Args:
        full: The listing.
        chosen: Indices of the images.
    """

    def __init__(self, full: Listing, chosen: Sequence[int] | np.ndarray):
        self.full, self.chosen = full, chosen
        self.kind, self.about, self.root, self.classes = full.kind, full.about, full.root, full.classes
        self.ordered, self.single_files = full.ordered, full.single_files
        self.names = ChosenNames(full.names, chosen)

    @property
    def as_values(self) -> bool:
        return self.full.as_values

    def open(self, i: int) -> Path | BinaryIO:
        return self.full.open(int(self.chosen[i]))

    def where(self, i: int) -> str:
        return self.full.where(int(self.chosen[i]))

    def label(self, i: int) -> int | None:
        return self.full.label(int(self.chosen[i]))

    def caption(self, i: int) -> str | None:
        return self.full.caption(int(self.chosen[i]))

    def files(self) -> Iterable[str | os.PathLike]:
        return super().files() if self.single_files else self.full.files()

    def part(self, chosen: Sequence[int] | np.ndarray) -> Listing:
        return self.full.part([int(self.chosen[i]) for i in chosen])


class ChosenNames(Sequence[str]):
    """Some of the names of a listing, without a copy of them.

    Args:
        names: All names.
        chosen: Indices.
    """

    def __init__(self, names: Sequence[str], chosen: Sequence[int] | np.ndarray):
        self.names, self.chosen = names, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            part = copy.copy(self)
            part.chosen = self.chosen[i]
            return part
        return self.names[int(self.chosen[i])]


class Opened(Sequence[Any]):
    """The images of a listing as paths or open files, each opened when it is asked for."""

    def __init__(self, listing: Listing):
        self.listing = listing

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self.listing.open(j) for j in range(len(self))[i]]
        return self.listing.open(i)
