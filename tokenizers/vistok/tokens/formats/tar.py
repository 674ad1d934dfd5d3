"""Webdataset tars: ``KEY.token.npy`` and ``KEY.cls`` for each view; of a dynamic head ``KEY.position.npy`` and
``KEY.length.npy`` too, with the sequences of all grains back to back.

They are made by what makes tars of images, with an ``index.json`` of the tars' sha256.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vistok.convert import INDEX, Source, convert
from vistok.data.images import UnreadableImage
from vistok.data.tars import members_in
from vistok.files import below
from vistok.tokens.arrays import read_array
from vistok.tokens.formats.base import (
    Advance,
    Record,
    check_layout,
    ids_of,
    read_header,
    write_header,
)
from vistok.tokens.formats.lines import record_of
from vistok.tokens.header import Header, read_json
from vistok.tokens.store import TokenStore

PER_SHARD = 10_000
ENDINGS = (".token.npy", ".position.npy", ".length.npy", ".cls")


class Views(Source):
    """The views of a store's images as samples of a tar."""

    def __init__(self, store: TokenStore, layout: str):
        self.store, self.layout, self.views = store, layout, store.header.num_views
        self.keys = [f"{i:08d}_{view}" for i in range(len(store)) for view in range(self.views)]
        self.about = {"tokenizer_sha256": store.header.tokenizer_sha256, "kind": "tokens", "layout": layout}
        self.labels = store.labels

    def sizes(self) -> list[int]:
        return [sum(map(len, self.members(n).values())) for n in range(len(self.keys))]

    def members(self, n: int) -> dict[str, bytes]:
        i, view = divmod(n, self.views)
        header = self.store.header
        dtype = np.int32 if sum(header.codebook_sizes) <= 2**31 else np.int64
        if header.grains is None:
            arrays = {"token": ids_of(self.store.view(i, view)[0], header, self.layout).astype(dtype)}
        else:
            ragged = self.store.ragged(i, view)
            tokens = np.concatenate(ragged.tokens).astype(dtype)
            arrays = {
                "token": tokens[:, 0] if len(header.codebook_sizes) == 1 else tokens,
                "position": np.concatenate(ragged.positions).astype(np.int32),
                "length": np.array([len(own) for own in ragged.tokens], dtype=np.int32),
            }
        return {f"{name}.npy": _bytes(array) for name, array in arrays.items()} | {"cls": str(self.labels[i]).encode()}


def write_webdataset(
    store: TokenStore, folder: Path, layout: str = "interleaved", name: str = "", advance: Advance | None = None
) -> None:
    """Tars of 10,000 samples each, in the order of the images.

    Args:
        store: The tokens; ``cls`` is -1 for an image without a label.
        folder: An empty folder.
        layout: Of several codebooks: ``interleaved`` over one vocabulary, or ``paired``, (h·w, k) arrays.
        name: Not in this form.
        advance: Is told how many images are written, at the end.
    """
    check_layout(layout)
    convert(Views(store, layout), folder, PER_SHARD, None, Console(quiet=True))
    write_header(store, folder, "webdataset", layout)
    if advance:
        advance(len(store))


def read_webdataset(folder: Path, header: Header | None = None) -> Iterator[Record]:
    """The images of a form of tars, in order.

    Args:
        folder: With the tars, ``index.json`` and ``header.json``.
        header: In the place of ``header.json``; tokens are then taken for interleaved.

    Raises:
        ValueError: A tar is damaged, or a sample does not fit the header.
    """
    folder, layout = Path(folder), "interleaved"
    if header is None:
        header, about = read_header(folder, "webdataset")
        layout = about["layout"]
    views: list[dict[str, Any]] = []
    for tar in read_json(folder / INDEX)["shards"]:
        path = below(folder, tar["name"], folder / INDEX)
        for key, sample in _samples(path):
            try:
                views.append(_plain(sample))
                label = int(sample[".cls"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}: the sample {key} is damaged: {error}") from error
            if len(views) == header.num_views:
                yield record_of(label, views, header, layout, f"{path}: {key}")
                views = []
    if views:
        raise ValueError(f"{folder}: the last image has {len(views)} of {header.num_views} views")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a tar by their keys."""
    former, sample = None, {}
    try:
        for key, extension, _, data in members_in(str(path), ENDINGS):
            if key != former and sample:
                yield former, sample
                sample = {}
            former, sample[extension] = key, data
    except UnreadableImage as error:
        raise ValueError(str(error)) from error
    if sample:
        yield former, sample


def _plain(sample: dict[str, bytes]) -> dict[str, Any]:
    """A sample in the form of a line of JSON."""
    tokens = read_array(sample[".token.npy"], "token.npy")
    if ".length.npy" not in sample:
        return {"tokens": tokens}
    ends = np.cumsum(read_array(sample[".length.npy"], "length.npy"))[:-1]
    positions = read_array(sample[".position.npy"], "position.npy")
    return {"tokens": np.split(tokens, ends), "positions": np.split(positions, ends)}


def _bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
