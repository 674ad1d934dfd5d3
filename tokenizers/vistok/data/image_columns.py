"""Columns of a table of image bytes, by its Arrow schema.

Hugging Face's ``datasets`` stores an image as a struct of ``bytes`` and ``path``, and describes its columns in the
schema's metadata under ``huggingface``: there an ``Image`` and a ``ClassLabel`` with the names of its classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vistok.data.columns import USUAL, find_columns
from vistok.data.image_cells import BYTES
from vistok.data.shard_image import ShardContent
from vistok.files import encodable
from vistok.images.rgb import UnreadableImage
from vistok.untrusted.bounded_json import parse_json

if TYPE_CHECKING:
    import pyarrow

MOST_METADATA = 2**24  # bytes of JSON
HOLDS = {"image": "bytes of images", "label": "whole numbers", "caption": "text"}


class UnknownColumns(UnreadableImage):
    """The columns of a table do not tell its images."""


class ImageColumns(NamedTuple):
    """Columns of a table."""

    image: str
    struct: bool  # True for Hugging Face's struct, False for plain bytes
    label: str | None = None  # of whole numbers
    caption: str | None = None  # of text
    classes: tuple[str, ...] | None = None  # names of the labels

    @property
    def names(self) -> list[str]:
        """Columns that are read."""
        return [name for name in (self.image, self.label, self.caption) if name is not None]


def image_columns(schema: "pyarrow.Schema", content: ShardContent, where: str) -> ImageColumns:
    """Finds the columns of a table of image bytes.

    The image is the one column that holds an image for Hugging Face, or else bytes; the label is the one
    ``ClassLabel``, or else a column of whole numbers with a usual name; the caption is a column of text with a usual
    name. Where there are several, usual names decide (``columns.USUAL``).

    Args:
        schema: Arrow schema of the table.
        content: Facts to find.
        where: Name of the table, for messages.

    Raises:
        UnknownColumns: There is no image, a column has another type, or several columns fit.
    """
    try:
        return _columns(schema, content, where)
    except ValueError as error:
        raise UnknownColumns(str(error)) from error


def _columns(schema: "pyarrow.Schema", content: ShardContent, where: str) -> ImageColumns:
    features = _features(schema, where)
    of_type = {role: [field.name for field in schema if fits(field.type)] for role, fits in _fitting().items()}
    found = {
        role: _found(role, of_type[role], features, schema.names, content.columns, where)
        for role in ("image", *content.roles)
    }
    image, label, caption = (found.get(role) for role in ("image", "label", "caption"))
    described = ", ".join(encodable(f"{field.name} ({field.type})"[:80]) for field in list(schema)[:20]) or "none"
    if image is None and of_type["image"]:
        several = of_type["image"]
        raise ValueError(
            f"{where} has images in {' and '.join(several)}: 'data.columns={{image: {several[0]}}}' chooses"
        )
    if image is None:
        raise ValueError(
            f"{where} has no column with the bytes of images, but {described}; "
            "a file with the paths of images is a table, which data=folder reads"
        )
    for role in content.needed:
        if found[role] is None:
            raise ValueError(
                f"data.{role}s=true: {where} has no column of {HOLDS[role]} with a usual name such as "
                f"{USUAL[role][0]}, but {described}; 'data.columns={{{role}: NAME}}' names one"
            )
    names: Any = features.get(label or "", {}).get("names")
    named = type(names) is list and all(type(name) is str for name in names)
    struct = not _is_bytes(schema.field(image).type)
    return ImageColumns(image, struct, label, caption, tuple(map(encodable, names)) if named else None)


def _is_bytes(kind: "pyarrow.DataType") -> bool:
    """True for a column of plain bytes."""
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def is_image(kind: "pyarrow.DataType") -> bool:
    """True for a column that may hold the bytes of images."""
    from pyarrow import types

    if not types.is_struct(kind):
        return _is_bytes(kind)
    fields = {field.name: field.type for field in kind}
    return BYTES in fields and _is_bytes(fields[BYTES])


def _fitting() -> dict[str, Callable[["pyarrow.DataType"], bool]]:
    """Test of a column's type, by role."""
    from pyarrow import types

    return {
        "image": is_image,
        "label": types.is_integer,
        "caption": lambda kind: types.is_string(kind) or types.is_large_string(kind),
    }


def _found(
    role: str,
    fitting: Sequence[str],
    features: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    asked: Mapping[str, str] | None,
    where: str,
) -> str | None:
    if (asked or {}).get(role):
        own = find_columns(names, (role,), asked, where)[role]
        if own not in fitting:
            raise ValueError(f"{where}: the column {own!r} (data.columns.{role}) does not hold {HOLDS[role]}")
        return own
    kind = {"image": "Image", "label": "ClassLabel"}.get(role)
    meant = [name for name in fitting if kind and features.get(name, {}).get("_type") == kind]
    candidates = meant or fitting
    if len(candidates) == 1 and (meant or role == "image"):
        return candidates[0]
    return find_columns(candidates, (role,), None, where)[role]


def _features(schema: "pyarrow.Schema", where: str) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns, by their names; empty if there is none."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    if len(content) > MOST_METADATA:
        raise ValueError(f"{where} has {len(content):,} bytes of metadata, more than {MOST_METADATA:,}")
    tree: Any = parse_json(content, f"the metadata of {where}")
    for key in ("info", "features"):
        tree = tree.get(key) if type(tree) is dict else None
    return {name: own for name, own in tree.items() if type(own) is dict} if type(tree) is dict else {}
