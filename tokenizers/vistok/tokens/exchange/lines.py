"""JSON lines for RAR and MaskGIT-style generators: ``{"class_id": 3, "tokens": [17, 4, ...]}`` for each view.

For a dynamic head ``tokens`` and ``positions`` have a list for each granularity, coarsest first, without EOS and
padding.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vistok.files import atomic_write
from vistok.tokens.exchange.records import (
    Advance,
    Record,
    check_layout,
    codes_of,
    ids_of,
    integers,
    read_header,
    write_header,
)
from vistok.tokens.header import Header
from vistok.tokens.memory_map import Ragged, check_ragged, spread
from vistok.tokens.store import TokenStore
from vistok.untrusted.bounded_json import parse_json, short

FILE = "tokens.jsonl"


def write_jsonl(
    store: TokenStore, folder: Path, layout: str = "interleaved", name: str = "", advance: Advance | None = None
) -> None:
    """Writes one line for each view of each image; the views of an image are consecutive.

    Args:
        store: The tokens; ``class_id`` is -1 for an image without a label.
        folder: An empty folder.
        layout: Layout of several codebooks: ``interleaved`` over one vocabulary, or ``paired``, a list of k at each
            place.
        name: Not used by this format.
        advance: Called with the number of images written so far.
    """
    check_layout(layout)
    header = store.header
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / FILE) as file:
        for i, label in enumerate(store.labels.tolist()):
            for view in range(header.num_views):
                content = {"class_id": label} | tokens_of(store, i, view, layout)
                file.write((json.dumps(content, separators=(", ", ": ")) + "\n").encode())
            if advance:
                advance(i + 1)
    write_header(store, folder, "jsonl", layout)


def tokens_of(store: TokenStore, i: int, view: int, layout: str) -> dict[str, Any]:
    """One view as plain lists."""
    if store.header.grains is None:
        return {"tokens": ids_of(store.view(i, view)[0], store.header, layout).tolist()}
    ragged = store.ragged(i, view)
    single = len(store.header.codebook_sizes) == 1
    tokens = [(own[:, 0] if single else own).tolist() for own in ragged.tokens]
    return {"tokens": tokens, "positions": [own.tolist() for own in ragged.positions]}


def read_jsonl(folder: Path, header: Header | None = None) -> Iterator[Record]:
    """Reads images from JSON lines, in order.

    Args:
        folder: Folder with ``tokens.jsonl`` and ``header.json``.
        header: Replaces ``header.json``, for files of other programs; their tokens must be interleaved.

    Raises:
        ValueError: A line is damaged or does not fit the header, or lines are missing.
    """
    folder, layout, count = Path(folder), "interleaved", None
    if header is None:
        header, about = read_header(folder, "jsonl")
        layout, count = about["layout"], about["images"]
    path, count_read = folder / FILE, 0
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    with path.open("rb") as file:
        while lines := list(islice(file, header.num_views)):
            first = count_read * header.num_views + 1
            views = [_line(text, f"{path}, line {first + n}") for n, text in enumerate(lines)]
            if len(views) < header.num_views or len({label for label, _ in views}) > 1:
                raise ValueError(f"{path}, line {first}: not {header.num_views} views of one image")
            yield record_of(views[0][0], [own for _, own in views], header, layout, f"{path}, line {first}")
            count_read += 1
    if count is not None and count_read != count:
        raise ValueError(f"{path} holds {count_read} images, not {count}: it is truncated")


def record_of(label: int, views: list[dict[str, Any]], header: Header, layout: str, where: str) -> Record:
    """Record from the views as plain lists or arrays.

    Raises:
        ValueError: The views do not fit the header; ``where`` names their location.
    """
    missing = [name for own in views for name in ("tokens", "positions")[: 1 + (header.grains is not None)]
               if name not in own]  # fmt: skip
    if missing:
        raise ValueError(f"{where} has no {missing[0]}")
    if header.grains is None:
        return Record(label, np.stack([codes_of(own["tokens"], header, layout, where) for own in views]))
    ragged = tuple(_ragged(own, header, where) for own in views)
    return Record(label, np.stack([spread(header, own)[0] for own in ragged]), ragged)


def _ragged(own: dict[str, Any], header: Header, where: str) -> Ragged:
    k = len(header.codebook_sizes)
    try:
        if not all(type(own[name]) is list for name in ("tokens", "positions")):
            raise ValueError("tokens and positions are not one list of equal length for each granularity")
        tokens = [integers(ids, k if k > 1 else None).reshape(-1, k) for ids in own["tokens"]]
        return check_ragged(header, Ragged(tokens, [integers(places) for places in own["positions"]]))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _line(text: bytes, where: str) -> tuple[int, dict[str, Any]]:
    try:
        content = parse_json(text, "it")
    except ValueError as error:
        raise ValueError(f"{where} is not a line of tokens: {error}") from error
    label = content.get("class_id") if type(content) is dict else None
    if type(label) is not int or not -(2**63) <= label < 2**63:
        raise ValueError(f"{where} is not a line of tokens: its class_id is {short(label)}")
    return label, content
