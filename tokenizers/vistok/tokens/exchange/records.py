"""Parts that all formats share: a record, the layouts of several codebooks, and the header beside the files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistok.files import write_json
from vistok.tokens.header import Header
from vistok.tokens.layouts import deinterleave, interleave
from vistok.tokens.memory_map import Ragged
from vistok.tokens.store import TokenStore
from vistok.untrusted.bounded_json import MAX_LISTING, read_object, short

HEADER = "header.json"  # in the folder of every format: the header, and the layout
LAYOUTS = ("interleaved", "paired")
Advance = Callable[[int], None]  # called with the number of images written so far


class Record(NamedTuple):
    """One image, read from a format."""

    label: int
    codes: np.ndarray  # (v, k, *positions) int64; for a dynamic head spread over the fine grid
    ragged: tuple[Ragged, ...] | None = None  # for a dynamic head: the sequences of each view


def ids_of(codes: np.ndarray, header: Header, layout: str) -> np.ndarray:
    """Codes (..., k, h, w) as ids: (..., h·w·k) for ``interleaved``, or (..., h·w, k) for ``paired``.

    With one codebook both are (..., h·w).
    """
    if layout == "interleaved" or len(header.codebook_sizes) == 1:
        return interleave(codes, header.codebook_sizes)
    flat = codes.reshape(*codes.shape[:-2], -1)
    return np.swapaxes(flat, -1, -2).astype(np.int64)


def codes_of(ids: Any, header: Header, layout: str, where: str) -> np.ndarray:
    """Codes (k, h, w) int64 from the ids of one view: the inverse of ``ids_of``.

    Raises:
        ValueError: The ids do not fill the grid, or are out of range; ``where`` names their location.
    """
    k = len(header.codebook_sizes)
    try:
        paired = layout == "paired" and k > 1
        ids = integers(ids, k if paired else None)
        if paired:
            ids = (ids + np.cumsum([0, *header.codebook_sizes[:-1]])).reshape(-1)
        return deinterleave(ids, header.codebook_sizes, header.grid)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def integers(values: Any, columns: int | None = None) -> np.ndarray:
    """Array (n,) int64, or (n, columns), from an integer array or from lists of JSON.

    Raises:
        ValueError: The values are something else. numpy would convert nearly anything, to an array as large as its
            longest text.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu":
            raise ValueError(f"its ids are {values.dtype}, not integers")
    else:
        rows = [values] if columns is None else values
        if type(rows) is not list or not all(type(row) is list for row in rows):
            raise ValueError(f"its ids are {short(values)}, not a list" + ("" if columns is None else " of lists"))
        if not all(type(value) is int and -(2**63) <= value < 2**63 for row in rows for value in row):
            raise ValueError(f"its ids are not integers: {short(values)}")
        if columns is not None and any(len(row) != columns for row in rows):
            raise ValueError(f"its ids are not lists of {columns}")
        values = np.array(values, dtype=np.int64).reshape(-1 if columns is None else (len(values), columns))
    if values.ndim != (1 if columns is None else 2) or (columns is not None and values.shape[1] != columns):
        raise ValueError(f"its ids have the shape {values.shape}, not (n,{'' if columns is None else f' {columns}'})")
    return values.astype(np.int64)


def refuse_ragged(header: Header, form: str) -> None:
    """Refuses tokens of a dynamic head for formats with the same number of tokens for all images."""
    if header.grains is not None:
        raise ValueError(
            f"{form} has one number of tokens for all images, but these are of a dynamic head; jsonl and webdataset "
            "hold sequences with positions"
        )


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")


def write_header(store: TokenStore, folder: Path, form: str, layout: str) -> None:
    """Writes the header into the folder of a format, so that the tokenizer can be identified."""
    about = {"form": form, "layout": layout, "images": len(store)}
    write_json(store.header.json() | about, folder / HEADER)


def read_header(folder: Path, form: str) -> tuple[Header, dict[str, Any]]:
    """Header of a format, and the other content of its file.

    Raises:
        ValueError: There is no header, or it is of another format.
    """
    content = read_object(folder / HEADER, MAX_LISTING)
    header = Header.of(content, folder / HEADER)
    header.refuse_native(str(folder / HEADER))
    if content.get("form") != form:
        raise ValueError(f"{folder} holds the form {short(content.get('form'))}, not {form}")
    if content.get("layout") not in LAYOUTS or type(content.get("images")) is not int or content["images"] < 0:
        raise ValueError(f"{folder / HEADER} lacks the layout or the number of images")
    return header, content
