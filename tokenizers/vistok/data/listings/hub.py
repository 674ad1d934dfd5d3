"""Images of Hugging Face data sets: saved ones, and those of its hub. No code of a data set is run.

``datasets`` stores tables as Arrow files, which are mapped into memory, so that each image can be read alone.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vistok.data.folder_splits import NAMES
from vistok.data.image_cells import PATH, bytes_of, label_of_cell
from vistok.data.image_columns import ImageColumns, image_columns
from vistok.data.image_paths import ImagePath
from vistok.data.listings.listing import Listing, Wanted
from vistok.data.listings.splits import Splits
from vistok.data.shard_image import ShardContent
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage
from vistok.untrusted.bounded_json import one_line

if TYPE_CHECKING:
    import datasets


class HubImages(Listing):
    """Images of one split of a Hugging Face data set.

    The name of an image is its path if all have one and no two are equal, else its row, counted from 0.

    Args:
        split: The split.
        columns: Its columns.
        needed: Roles (label, caption) without which an image is unreadable.
        about: Its name, for messages.
        folder: Folder of a saved split; None for one of the hub, whose ``root`` is its first Arrow file. Paths in place
            of bytes begin there, or at the current folder, as for ``datasets``.
    """

    kind = "hub"

    def __init__(
        self,
        split: "datasets.Dataset",
        columns: ImageColumns,
        needed: Sequence[str],
        about: str,
        folder: Path | None,
    ):
        self.columns, self.needed, self.about, self.classes = columns, needed, encodable(about), columns.classes
        self.folder = folder or Path()
        self.root = folder or Path(next(iter(split.cache_files), {"filename": about})["filename"])
        self.split = split.select_columns(columns.names)
        arrow = self.split.with_format("arrow")
        self.cells = {name: arrow.select_columns(name) for name in columns.names}  # others would be read too
        paths = _unique_paths(self.cells[columns.image], columns)
        self.ordered = paths is None
        self.names: Sequence[str] = list(map(str, range(len(split)))) if paths is None else paths

    def open(self, i: int) -> BinaryIO:
        return io.BytesIO(bytes_of(self._cell(i, self.columns.image), self.folder))

    def label(self, i: int) -> int | None:
        """As in ``Listing``. A negative or large number raises ``ValueError``."""
        if self.columns.label is None:
            return None
        label = label_of_cell(self._cell(i, self.columns.label), self.classes is not None)
        if label is None and "label" in self.needed:
            raise UnreadableImage(f"it has no label: {self.columns.label} is null or -1")
        if label is not None and not 0 <= label < 2**31:
            raise ValueError(f"{self.where(i)}: its label is {label}, not from 0 to 2^31 - 1")
        return label

    def caption(self, i: int) -> str | None:
        if self.columns.caption is None:
            return None
        caption = self._cell(i, self.columns.caption)
        if caption is None and "caption" in self.needed:
            raise UnreadableImage(f"it has no caption: {self.columns.caption} is null")
        return caption

    def files(self) -> Iterable[str]:
        return [file["filename"] for file in self.split.cache_files]

    def _cell(self, i: int, column: str) -> Any:
        try:
            return self.cells[column][i][column][0].as_py()
        except (OSError, ValueError) as error:
            raise UnreadableImage(f"row {i} cannot be read: {one_line(error)}") from error


def open_hub(
    found: ImagePath, argument: str, wanted: Wanted = Wanted(), columns: Mapping[str, str] | None = None
) -> Splits:
    """Images of a saved data set, or of one on the hub, by its splits.

    Args:
        found: ``path`` of a saved data set, or ``name`` on the hub: ``NAME``, ``USER/NAME``, ``USER/NAME/CONFIG``, or a
            folder that begins with ``/``, ``.`` or ``~``. ``split``: the one split to read, if it is not empty.
        argument: The user's name of the source with its value, for messages.
        wanted: Labels and captions to read.
        columns: The user's names of columns, see ``image_columns``.

    Raises:
        ValueError: ``datasets`` is not installed, or the data set cannot be read, or not as asked.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{argument} needs datasets: pip install 'vistok[datasets]'") from error
    try:
        loaded: Any = datasets.load_from_disk(str(found.path)) if found.kind == "saved" else _from_hub(found)
    except Exception as error:  # errors of a connection, a server, a file system, or a data set
        hint = "" if found.kind == "saved" else " (is the name right, and the hub or the cache of its data in reach?)"
        raise ValueError(f"{argument} cannot be read{hint}: {type(error).__name__}: {one_line(error)}") from error
    divided = isinstance(loaded, dict)
    splits = {str(name): own for name, own in loaded.items()} if divided else {str(loaded.split or "train"): loaded}
    for name, own in splits.items():
        if not isinstance(own, datasets.Dataset):
            raise ValueError(f"{argument}: the split {name} is no table of rows")
    if found.split and found.kind == "saved":
        same = [name for name in splits if _role(name) and _role(name) == _role(found.split)]
        chosen = found.split if found.split in splits else same[0] if len(same) == 1 else None
        if chosen is None:
            raise ValueError(f"{argument}: there is no split {found.split!r}, but {', '.join(splits)}")
        splits = {chosen: splits[chosen]}
    needs = {"label": wanted.labels, "caption": wanted.captions}
    roles, needed = (
        tuple(role for role in needs if needs[role] in kinds) for kinds in (("known", "needed"), ("needed",))
    )
    content, listings = ShardContent(roles, columns, needed), {}
    for name, own in splits.items():
        folder = None if found.kind == "hub" else found.path / name if divided else found.path
        found_columns = image_columns(own.features.arrow_schema, content, f"{argument} ({name})")
        listings[name] = HubImages(own, found_columns, content.needed, f"{argument.partition('=')[2]}@{name}", folder)
    if divided and not found.split:
        return by_role(listings, argument)
    return Splits(next(iter(listings.values())))  # the user named it


def by_role(listings: Mapping[str, Listing], argument: str) -> Splits:
    """Splits of a data set by their names; a single split of another name is to train on.

    Raises:
        ValueError: No split, or several, are to train on.
    """
    roles = {role: [name for name in listings if _role(name) == role] for role in NAMES}
    others = [name for name in listings if not _role(name)]
    if len(listings) == 1 and others:
        return Splits(listings[others[0]])
    twice = next((names for names in roles.values() if len(names) > 1), None)
    if twice or not any(roles.values()):
        raise ValueError(
            f"{argument} has the splits {', '.join(listings)}: name one, such as {argument}@{next(iter(listings))}"
        )
    train, val, test = (listings[names[0]] if names else None for names in roles.values())
    notes = []
    if val and test:
        notes.append(f"{argument}@{roles['test'][0]} is neither trained on nor scored, unless it is named")
    if others:
        notes.append(f"not read: the splits {', '.join(others)} of {argument}")
    return Splits(train or next(iter(listings.values())).part([]), val, test, tuple(map(encodable, notes)))


def _role(name: str) -> str:
    """``train``, ``val`` or ``test``; empty text for a split of another name."""
    return next((role for role, names in NAMES.items() if name.lower() in names), "")


def _from_hub(found: ImagePath) -> Any:
    import datasets

    name = str(Path(found.name).expanduser()) if found.name[:1] in ("/", ".", "~") else found.name
    parts = [name] if name != found.name or name[:1] in ("/", ".") else name.split("/", 2)
    load: Any = datasets.load_dataset
    return load("/".join(parts[:2]), *parts[2:], split=found.split or None)


def _unique_paths(cells: "datasets.Dataset", columns: ImageColumns) -> list[str] | None:
    """Path of each image; None if one has none, or two are equal."""
    if not columns.struct:
        return None
    paths: list[str | None] = []
    batch: Any
    for batch in cells.iter(10_000):
        images = batch[columns.image].combine_chunks()
        if images.type.get_field_index(PATH) < 0:
            return None
        paths += images.field(PATH).to_pylist()
    names = [path for path in paths if path]
    return names if len(set(names)) == len(paths) else None
