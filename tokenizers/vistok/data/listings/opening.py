"""Opening of any source of images that are listed."""

from collections.abc import Mapping
from pathlib import Path

from vistok.data.columns import check_columns
from vistok.data.folder_splits import NAMES, split_of
from vistok.data.image_paths import LISTED, ImagePath, find_images, is_pattern, kind_of
from vistok.data.listings.array_file import open_arrays
from vistok.data.listings.folder_images import folder_splits
from vistok.data.listings.listing import Listing, Wanted
from vistok.data.listings.manifest import manifest_splits
from vistok.data.listings.splits import Splits
from vistok.terminal import say


def open_splits(
    source: str, argument: str, wanted: Wanted = Wanted(), columns: Mapping[str, str] | None = None
) -> Splits:
    """Images of a source, by its splits.

    Args:
        source: A name of ``image_paths``, but no shards.
        argument: The user's name of the argument, for messages.
        wanted: Labels and captions to read.
        columns: The user's names of columns, see ``columns.find_columns``.

    Raises:
        ValueError: There is no such source, it has no images, or not what is wanted.
    """
    check_columns(columns)
    if argument == "data.root" and kind_of(source) == "shards" and is_pattern(source):
        raise ValueError(
            f"{argument}={source} is neither a folder nor another source whose images are listed; "
            f"shards are read by data=shards 'data.urls={source}'"
        )
    found = find_images(source, argument, LISTED)
    splits = _open(found, f"{argument}={source}", wanted, columns)
    if found.split and found.kind not in ("saved", "hub"):
        return _named(splits, found.split, f"{argument}={source}")
    return splits


def open_listing(
    source: str, argument: str, wanted: Wanted = Wanted(), columns: Mapping[str, str] | None = None
) -> Listing:
    """Images of a source without splits, or of the one split that it names; prints what is not read.

    Errors are those of ``open_splits``.
    """
    if kind_of(source) == "split" and (split := split_of(Path(source).expanduser())):
        raise ValueError(f"{argument}={source} has the splits {split.names}: name one of them")
    splits = open_splits(source, argument, wanted, columns)
    if splits.divided:
        names = [name for name, own in zip(NAMES, splits[:3], strict=True) if own]
        raise ValueError(
            f"{argument}={source} has the splits {', '.join(names)}: name one of them, such as {source}@{names[0]}"
        )
    for note in splits.notes:
        say(note, "yellow")
    return splits.train


def _open(found: ImagePath, argument: str, wanted: Wanted, columns: Mapping[str, str] | None) -> Splits:
    if found.kind in ("folder", "split"):
        return folder_splits(found.path, argument, wanted)
    if found.kind == "manifest":
        return manifest_splits(found.path, argument, wanted, columns)
    if found.kind == "arrays":
        return Splits(open_arrays(found.path, argument, wanted))
    from vistok.data.listings.hub import open_hub

    return open_hub(found, argument, wanted, columns)


def _named(splits: Splits, name: str, argument: str) -> Splits:
    """One split of a source as its only images."""
    role = next((role for role, names in NAMES.items() if name.lower() in names), None)
    listing = dict(zip(NAMES, splits[:3], strict=True)).get(role or "")
    divided = splits.divided or splits.has_names
    if not divided or not listing:
        there = [own for own, images in zip(NAMES, splits[:3], strict=True) if images] if divided else []
        raise ValueError(f"{argument}: there is no split {name!r}, but {', '.join(there) or 'no splits'}")
    return Splits(listing)
