"""Classes of images by the folders that they lie in, as torchvision's ``ImageFolder`` numbers them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class ClassFolders(NamedTuple):
    """Numbers of the classes."""

    numbers: Mapping[str, int]  # by the name of the folder, in sorted order
    depth: int  # number of folders above the class in a path: 1 below the folders of a split

    def of(self, path: str) -> int:
        """Class of an image by its path relative to the root."""
        return self.numbers[path.split("/")[self.depth]]


def class_folders(paths: Iterable[str], depth: int, argument: str) -> ClassFolders:
    """Classes of images.

    Args:
        paths: Paths of the images relative to the root.
        depth: Number of folders above the classes.
        argument: The user's name of the root, for messages.

    Raises:
        ValueError: An image lies in no class folder.
    """
    names: set[str] = set()
    for path in paths:
        folders = path.split("/", depth + 1)
        if len(folders) < depth + 2:
            raise ValueError(f"data.labels=true: {path} lies in no class folder of {argument}")
        names.add(folders[depth])
    return ClassFolders({name: i for i, name in enumerate(sorted(names))}, depth)
