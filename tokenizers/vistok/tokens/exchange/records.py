"""What the forms share: a record, the layouts of several codebooks, and the header beside the files."""

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

HEADER = "header.json"  # at the root of what a writer writes: the header, and the layout
LAYOUTS = ("interleaved", "paired")
Advance = Callable[[int], None]  # called with the number of images that are written


class Record(NamedTuple):
    """One image, read back."""

    label: int
    codes: np.ndarray  # (v, k, h, w) int64; of a dynamic head spread over the fine grid
    ragged: tuple[Ragged, ...] | None = None  # of a dynamic head: of each view


def ids_of(codes: np.ndarray, header: Header, layout: str) -> np.ndarray:
    """Codes (..., k, h, w) as a list for each image: (..., h·w·k) ``interleaved``, or (..., h·w, k) ``paired``.

    With one codebook both are (..., h·w).
    """
    if layout == "interleaved" or len(header.codebook_sizes) == 1:
        return interleave(codes, header.codebook_sizes)
    flat = codes.reshape(*codes.shape[:-2], -1)
    return np.swapaxes(flat, -1, -2).astype(np.int64)


def codes_of(ids: Any, header: Header, layout: str, where: str) -> np.ndarray:
    """The inverse of ``ids_of`` for one view: codes (k, h, w) int64.

    Raises:
        ValueError: The ids do not fill the grid, or are out of range; ``where`` says which.
    """
    k = len(header.codebook_sizes)
    try:
        paired = layout == "paired" and k > 1
        ids = whole_numbers(ids, k if paired else None)
        if paired:
            ids = (ids + np.cumsum([0, *header.codebook_sizes[:-1]])).reshape(-1)
        return deinterleave(ids, header.codebook_sizes, header.grid)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def whole_numbers(values: Any, columns: int | None = None) -> np.ndarray:
    """An array (n,) int64, or (n, columns), of one of whole numbers, or of lists from JSON.

    Raises:
        ValueError: It is something else. numpy would make an array of nearly anything, as large as its longest text.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu":
            raise ValueError(f"its ids are {values.dtype}, not whole numbers")
    else:
        rows = [values] if columns is None else values
        if type(rows) is not list or not all(type(row) is list for row in rows):
            raise ValueError(f"its ids are {short(values)}, not a list" + ("" if columns is None else " of lists"))
        if not all(type(value) is int and -(2**63) <= value < 2**63 for row in rows for value in row):
            raise ValueError(f"its ids are not whole numbers: {short(values)}")
        if columns is not None and any(len(row) != columns for row in rows):
            raise ValueError(f"its ids are not lists of {columns}")
        values = np.array(values, dtype=np.int64).reshape(-1 if columns is None else (len(values), columns))
    if values.ndim != (1 if columns is None else 2) or (columns is not None and values.shape[1] != columns):
        raise ValueError(f"its ids have the shape {values.shape}, not (n,{'' if columns is None else f' {columns}'})")
    return values.astype(np.int64)


def refuse_ragged(header: Header, form: str) -> None:
    """Refuse tokens of a dynamic head where the form has one number of tokens for all images."""
    if header.grains is not None:
        raise ValueError(
            f"{form} has one number of tokens for all images, but these are of a dynamic head; jsonl and webdataset "
            "hold sequences with positions"
        )


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")


def write_header(store: TokenStore, folder: Path, form: str, layout: str) -> None:
    """Write the header into the root of a form, so that the tokenizer can still be told."""
    about = {"form": form, "layout": layout, "images": len(store)}
    write_json(store.header.json() | about, folder / HEADER)


def read_header(folder: Path, form: str) -> tuple[Header, dict[str, Any]]:
    """The header of a form, and all else that is with it.

    Raises:
        ValueError: There is none, or it is of another form.
    """
    content = read_object(folder / HEADER, MAX_LISTING)
    header = Header.of(content, folder / HEADER)
    if content.get("form") != form:
        raise ValueError(f"{folder} holds the form {short(content.get('form'))}, not {form}")
    if content.get("layout") not in LAYOUTS or type(content.get("images")) is not int or content["images"] < 0:
        raise ValueError(f"{folder / HEADER} lacks the layout or the number of images")
    return header, content
