"""Sources of images: decides what a name means, the same everywhere.

| source | images | read |
| --- | --- | --- |
| a folder | all images below it; with subfolders such as ``train`` and ``val``, a split (``folder_splits``) | listed |
| ``FILE.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` | image files in a manifest, with labels, captions, splits | listed |
| ``FILE.npz`` | arrays of images | listed |
| a folder of ``Dataset.save_to_disk``, or ``hf:NAME`` | a Hugging Face data set | listed |
| ``sample`` | the photos in scikit-image, unless a folder of this name exists | listed |
| tars and parquet files with image bytes | shards: paths, with braces and ``*``, and URLs | in order |

``@SPLIT`` after a manifest or a Hugging Face data set is one split of it, such as ``photos.csv@test``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vistok.data.folder_splits import split_of
from vistok.data.tars import expand

SAMPLE, HUB, PARQUET = "sample", "hf:", ".parquet"
MANIFESTS = (".csv", ".tsv", ".jsonl", PARQUET)  # extensions; parquet files of image bytes are shards
SAVED = ("dataset_dict.json", "state.json")  # in a folder that Hugging Face's save_to_disk wrote
LISTED = ("folder", "split", "manifest", "arrays", "saved", "hub")
KINDS = {
    "folder": "a folder",
    "split": "a folder",
    "manifest": "a table of paths (.csv, .tsv, .jsonl, .parquet)",
    "arrays": "an .npz file",
    "saved": "a Hugging Face data set",
    "hub": "a Hugging Face data set",
    "sample": SAMPLE,
    "shards": "shards (tars, or parquet files of images)",
}  # by kind


class ImagePath(NamedTuple):
    """Images of a source."""

    kind: str  # a key of KINDS
    path: Path = Path()  # of images on disk that are listed
    shards: tuple[str, ...] = ()  # paths, and URLs given by the user
    split: str = ""  # that the user named
    name: str = ""  # of a data set on the hub


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
    if len(found) > 1 and set(LISTED) & set(found):
        raise ValueError(f"{argument} is one folder, one file or several shards, not {' '.join(names)}")
    kind = found[0] if len(set(found)) == 1 else "shards"
    if kind not in kinds:
        wanted = " or ".join(dict.fromkeys(KINDS[name] for name in kinds))
        exists = kind != "shards" or len(names) > 1 or is_pattern(names[0])
        raise ValueError(f"{argument}={' '.join(names)} is not {wanted}{'' if exists else ': there is no such file'}")
    if kind == "shards":
        return ImagePath(kind, shards=tuple(expand(names, argument)))
    name, split = split_name(names[0])
    if kind == "hub":
        return ImagePath(kind, split=split, name=name.removeprefix(HUB))
    return ImagePath(kind, Path(os.path.expanduser(name)), split=split)


def kind_of(name: str) -> str:
    """Kind of the images of one name."""
    if name.startswith(HUB) and not name.startswith(f"{HUB}//"):
        return "hub"
    name, split = split_name(name)
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        if any((path / file).is_file() for file in SAVED):
            return "saved"
        return "split" if split_of(path) else "folder"
    if name == SAMPLE:
        return "sample"
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return "arrays"
    if suffix in MANIFESTS and not (suffix == PARQUET and _are_shards(path)):
        return "manifest"
    return "shards"


def is_pattern(name: str) -> bool:
    """True for a file that exists, for a URL, and for a pattern of several files."""
    return os.path.exists(os.path.expanduser(name)) or any(mark in name for mark in ("*", "?", "{", ":"))


def split_name(source: str) -> tuple[str, str]:
    """A source and the split after its ``@``; an existing file or folder of the whole name has none."""
    name, at, split = source.rpartition("@")
    if not at or "/" in split or os.path.exists(os.path.expanduser(source)):
        return source, ""
    path = Path(os.path.expanduser(name))
    divided = name.startswith(HUB) or path.suffix.lower() in MANIFESTS or path.is_dir()
    return (name, split) if divided else (source, "")


def _are_shards(path: Path) -> bool:
    """True for a parquet file of image bytes, for a URL, and for a pattern of files."""
    if not path.is_file():
        return True
    from vistok.data.parquet_samples import has_images

    return has_images(path)
