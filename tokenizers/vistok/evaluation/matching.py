"""Assignment of stored images to the images of a set by their names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from vistok.images.decoding import image_extensions

NAMED = 5  # names in a message


def matched(names: Sequence[str], stored: Sequence[str], argument: str) -> dict[str, int]:
    """Index of the stored image for each name.

    Names are compared without extensions. Where that leaves some without a partner, the names of shards and folders
    around all images are left out too, if more are equal then.

    Args:
        names: Names of the images of a set.
        stored: Names of the stored images.
        argument: The user's argument and its value, for messages.

    Raises:
        ValueError: Names are missing, superfluous, or equal; the message has some of them and their number.
    """
    forms = [(own, other) for own in _forms(names) for other in _forms(stored)]
    ours, theirs = max(forms, key=lambda form: len(set(form[0]).intersection(form[1])))  # the first of equals
    for keys, of in ((ours, names), (theirs, stored)):
        counts = Counter(keys)
        equal = [name for name, key in zip(of, keys, strict=True) if counts[key] > 1]
        if equal:
            raise ValueError(f"{argument}: names that differ only in folders or extensions: {_some(equal)}")
    place = {key: i for i, key in enumerate(theirs)}
    missing = [name for name, key in zip(names, ours, strict=True) if key not in place]
    superfluous = [stored[i] for i in sorted(place[key] for key in place.keys() - set(ours))]
    problems = [f"{len(missing):,} of {len(names):,} images have no reconstruction: {_some(missing)}"] * bool(missing)
    problems += [f"{len(superfluous):,} reconstructions belong to no image: {_some(superfluous)}"] * bool(superfluous)
    if problems:
        raise ValueError(f"{argument} does not match the images; {'; '.join(problems)}")
    return {name: place[key] for name, key in zip(names, ours, strict=True)}


def in_sorted_order(names: Sequence[str], count: int, argument: str) -> dict[str, int]:
    """Index of the stored image for each name, where ``count`` images are stored in the order of the sorted names.

    Raises:
        ValueError: There are more or fewer names.
    """
    if len(names) != count:
        raise ValueError(f"{argument} has {count:,} images without names, but there are {len(names):,} to compare with")
    return {name: i for i, name in enumerate(sorted(names))}


def _forms(names: Sequence[str]) -> list[list[str]]:
    """Names without extensions; these without the shard before the first colon; these without folders around all."""
    known = image_extensions()
    plain = [name[: -len(PurePosixPath(name).suffix)] if _suffix(name) in known else name for name in names]
    inside = [name.partition(":")[2] or name for name in plain]
    folders = [name.split("/")[:-1] for name in inside]
    depth = 0
    while folders and all(len(own) > depth and own[depth] == folders[0][depth] for own in folders):
        depth += 1
    return [plain, inside, ["/".join(name.split("/")[depth:]) for name in inside]]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
