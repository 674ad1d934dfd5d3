"""Columns of a table of images: the image, its label, its caption and its split, by their usual names."""

from collections.abc import Mapping, Sequence

USUAL = {
    "image": ("image", "img", "jpg", "png", "webp", "image_bytes", "bytes"),
    "path": ("path", "file_name", "filename", "file", "filepath", "file_path", "image_path", "image", "img"),
    "label": ("label", "labels", "class", "cls", "class_id", "target", "fine_label"),
    "caption": ("caption", "captions", "text", "txt", "prompt"),
    "split": ("split", "subset"),
}  # names of a column in lower case, by its role; path: of an image file


def find_columns(
    columns: Sequence[str], roles: Sequence[str], asked: Mapping[str, str] | None, where: str
) -> dict[str, str | None]:
    """Column of each role; None for a role without one.

    Args:
        columns: Names of the columns.
        roles: Keys of ``USUAL``.
        asked: The user's ``data.columns``: columns by their roles; the image's is always ``image``.
        where: Name of the table, for messages.

    Raises:
        ValueError: The table has not the column that was asked for, or several usual ones for a role.
    """
    found: dict[str, str | None] = {}
    for role in roles:
        key = "image" if role == "path" else role
        if own := (asked or {}).get(key):
            if own not in columns:
                raise ValueError(f"{where} has no column {own!r} (data.columns.{key}), but {', '.join(columns)}")
            found[role] = own
            continue
        usual = [name for name in columns if name.lower() in USUAL[role]]
        if len(usual) > 1:
            raise ValueError(
                f"{where} has the columns {' and '.join(usual)}, each of which may be the {key}: "
                f"'data.columns={{{key}: {usual[0]}}}' chooses"
            )
        found[role] = usual[0] if usual else None
    return found


def check_columns(asked: Mapping[str, str] | None) -> None:
    """Refuses a ``data.columns`` with other roles than image, label, caption and split."""
    for role, name in (asked or {}).items():
        if role == "path" or role not in USUAL or type(name) is not str:
            raise ValueError(f"data.columns names columns of image, label, caption and split, not {role}: {name!r}")
