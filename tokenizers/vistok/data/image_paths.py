"""Sources of images: decides whether a path is a folder, an archive, tar shards or ``sample``.

| source | images |
| --- | --- |
| a folder | all images below it; with subfolders such as ``train`` and ``val``, a split (``folder_splits``) |
| ``sample`` | the photos in scikit-image, unless a folder of this name exists |
| a name that ends in ``.npz`` | images with labels as arrays |
| anything else, or several | tar shards: paths, with braces and ``*``, and URLs |
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vistok.data.folder_splits import split_of
from vistok.data.tars import expand

SAMPLE = "sample"
KINDS = {
    "folder": "a folder",
    "split": "a folder",
    "sample": SAMPLE,
    "arrays": "an .npz file",
    "shards": "tar shards",
}  # by kind


class ImagePath(NamedTuple):
    """Images of a source."""

    kind: str  # a key of KINDS
    path: Path = Path()  # of a folder, a split or arrays
    shards: tuple[str, ...] = ()  # paths, and URLs given by the user


def find_images(source: str | Sequence[str], argument: str, kinds: Sequence[str]) -> ImagePath:
    """Finds the images of a source.

    Args:
        source: One name or several, as the user gave them.
        argument: Name of the argument, for messages.
        kinds: Kinds that are accepted.

    Raises:
        ValueError: The source is of another kind, or a shard does not exist.
    """
    names = [source] if isinstance(source, str) else list(source)
    found = [kind_of(name) for name in names]
    if len(found) > 1 and {"folder", "split"} & set(found):
        raise ValueError(f"{argument} is one folder or several tars, not {' '.join(names)}")
    kind = found[0] if len(set(found)) == 1 else "shards"
    if kind not in kinds:
        wanted = " or ".join(dict.fromkeys(KINDS[name] for name in kinds))
        raise ValueError(f"{argument}={' '.join(names)} is not {wanted}")
    if kind == "shards":
        return ImagePath(kind, shards=tuple(expand(names, argument)))
    return ImagePath(kind, Path(os.path.expanduser(names[0])))


def kind_of(name: str) -> str:
    """Kind of the images of one name."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return "split" if split_of(path) else "folder"
    if name == SAMPLE:
        return "sample"
    return "arrays" if path.suffix == ".npz" else "shards"
