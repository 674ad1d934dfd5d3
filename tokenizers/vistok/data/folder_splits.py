"""Subfolders of a data set that are its splits, by the names that Hugging Face's image folders know."""

import os
from pathlib import Path
from typing import NamedTuple

from vistok.data.folder_listing import PASSED_OVER

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}  # in any case


class Split(NamedTuple):
    """Subfolders of a folder that is split; a class folder may have one of these names, but not beside ``train``."""

    train: str
    val: str | None
    test: str | None
    others: tuple[str, ...]  # further subfolders, which are passed over

    @property
    def names(self) -> str:
        """The splits, for messages."""
        return ", ".join(name for name in self[:3] if isinstance(name, str))


def split_of(root: Path) -> Split | None:
    """Splits of a folder with images to train on, and images for validation or for a test; None for other folders.

    Raises:
        ValueError: Two subfolders are the same split, or there are no images to train on beside validation and test.
    """
    if not root.is_dir():
        return None
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    found = {split: [name for name in folders if name.lower() in known] for split, known in NAMES.items()}
    if found["train"] and (found["val"] or found["test"]):
        for split, names in found.items():
            if len(names) > 1:
                raise ValueError(f"{root} has {' and '.join(names)}, which both look like its {split} split: name one")
        known = {name for names in found.values() for name in names} | {PASSED_OVER}
        train, val, test = (names[0] if names else None for names in found.values())
        return Split(str(train), val, test, tuple(name for name in folders if name not in known))
    if found["val"] and found["test"] and len(folders) == len(found["val"]) + len(found["test"]):
        raise ValueError(f"{root} has {', '.join(folders)} but no folder of images to train on: name one of them")
    return None
