"""JSON lines, as RAR and MaskGIT-style generators read them: ``{"class_id": 3, "tokens": [17, 4, ...]}`` for each view.

Of a dynamic head ``tokens`` and ``positions`` are a list for each grain, coarsest first, without EOS and padding.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vistok.files import whole
from vistok.tokens.formats.base import (
    Advance,
    Record,
    check_layout,
    codes_of,
    ids_of,
    read_header,
    write_header,
)
from vistok.tokens.header import Header
from vistok.tokens.mapped import Ragged, spread
from vistok.tokens.store import TokenStore

FILE = "tokens.jsonl"


def write_jsonl(
    store: TokenStore, folder: Path, layout: str = "interleaved", name: str = "", advance: Advance | None = None
) -> None:
    """One line for each view of each image, views of an image together.

    Args:
        store: The tokens; ``class_id`` is -1 for an image without a label.
        folder: An empty folder.
        layout: Of several codebooks: ``interleaved`` over one vocabulary, or ``paired``, a list of k at each place.
        name: Not in this form.
        advance: Is told how many images are written.
    """
    check_layout(layout)
    header = store.header
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / FILE) as file:
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
    """The images of a form of JSON lines, in order.

    Args:
        folder: With ``tokens.jsonl`` and ``header.json``.
        header: In the place of ``header.json``, for a file by others; its tokens are then taken for interleaved.

    Raises:
        ValueError: A line is damaged or does not fit the header, or lines are missing.
    """
    folder, layout, count = Path(folder), "interleaved", None
    if header is None:
        header, about = read_header(folder, "jsonl")
        layout, count = about["layout"], about["images"]
    path, seen = folder / FILE, 0
    with path.open() as file:
        while lines := list(islice(file, header.num_views)):
            first = seen * header.num_views + 1
            views = [_line(text, f"{path}, line {first + n}") for n, text in enumerate(lines)]
            if len(views) < header.num_views or len({label for label, _ in views}) > 1:
                raise ValueError(f"{path}, line {first}: not {header.num_views} views of one image")
            yield record_of(views[0][0], [own for _, own in views], header, layout, f"{path}, line {first}")
            seen += 1
    if count is not None and seen != count:
        raise ValueError(f"{path} holds {seen} images, not {count}: it is cut short")


def record_of(label: int, views: list[dict[str, Any]], header: Header, layout: str, where: str) -> Record:
    """A record from the views as plain lists."""
    if header.grains is None:
        return Record(label, np.stack([codes_of(own["tokens"], header, layout, where) for own in views]))
    ragged = tuple(_ragged(own, header, where) for own in views)
    return Record(label, np.stack([spread(header, own)[0] for own in ragged]), ragged)


def _ragged(own: dict[str, Any], header: Header, where: str) -> Ragged:
    sizes = np.array(header.codebook_sizes)
    try:
        tokens = [np.array(ids, dtype=np.int64).reshape(-1, len(sizes)) for ids in own["tokens"]]
        positions = [np.array(places, dtype=np.int64) for places in own["positions"]]
        lengths = [len(ids) for ids in tokens]
        if len(tokens) != header.grains or [len(places) for places in positions] != lengths:
            raise ValueError("tokens and positions are not one list of equal length for each grain")
        for grain, (ids, places) in enumerate(zip(tokens, positions, strict=True)):
            cells = header.positions >> 2 * (header.grains - 1 - grain)
            if ((ids < 0) | (ids >= sizes)).any() or ((places < 0) | (places >= cells)).any():
                raise ValueError(f"a token or a position of grain {grain} is out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Ragged(tokens, positions)


def _line(text: str, where: str) -> tuple[int, dict[str, Any]]:
    try:
        content = json.loads(text)
        return int(content["class_id"]), {name: content[name] for name in ("tokens", "positions") if name in content}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} is no line of tokens: {type(error).__name__}: {error}") from error
