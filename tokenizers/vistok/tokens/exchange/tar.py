"""Webdataset tars with ``KEY.token.npy`` and ``KEY.cls`` for each view.

For a dynamic head they also have ``KEY.position.npy`` and ``KEY.length.npy``, with the sequences of all granularities
concatenated. ``data.shard_writer`` writes the tars and an ``index.json`` with their SHA-256.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vistok.data.shard_writer import INDEX, Samples, convert
from vistok.data.tar_samples import key_of
from vistok.data.tars import members_in
from vistok.files import below
from vistok.images.rgb import UnreadableImage
from vistok.tokens.exchange.lines import record_of
from vistok.tokens.exchange.records import Advance, Record, check_layout, ids_of, read_header, write_header
from vistok.tokens.header import Header
from vistok.tokens.store import TokenStore
from vistok.untrusted.arrays import read_array
from vistok.untrusted.bounded_json import MAX_LISTING, one_line, read_object, short

PER_SHARD = 10_000
ENDINGS = (".token.npy", ".position.npy", ".length.npy", ".cls")
LABEL = re.compile(rb"-?\d{1,18}")
COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7")  # first bytes of gzip, bzip2 and xz


class Views(Samples):
    """Views of a store's images as samples of a tar."""

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
    """Writes tars of 10,000 samples each, in the order of the images.

    Args:
        store: The tokens; ``cls`` is -1 for an image without a label.
        folder: An empty folder.
        layout: Layout of several codebooks: ``interleaved`` over one vocabulary, or ``paired``, (h·w, k) arrays.
        name: Not used by this format.
        advance: Called with the number of images written, at the end.
    """
    check_layout(layout)
    convert(Views(store, layout), folder, PER_SHARD, None, Console(quiet=True))
    write_header(store, folder, "webdataset", layout)
    if advance:
        advance(len(store))


def read_webdataset(folder: Path, header: Header | None = None) -> Iterator[Record]:
    """Reads images from tars, in order.

    Args:
        folder: Folder with the tars, ``index.json`` and ``header.json``.
        header: Replaces ``header.json``; tokens must then be interleaved.

    Raises:
        ValueError: A tar is damaged, or a sample does not fit the header.
    """
    folder, layout, count, count_read = Path(folder), "interleaved", None, 0
    if header is None:
        header, about = read_header(folder, "webdataset")
        layout, count = about["layout"], about["images"]
    views: list[tuple[int, dict[str, Any]]] = []
    for tar in _tars(folder / INDEX):
        path = below(folder, tar["name"], folder / INDEX)
        for key, sample in _samples(path, header):
            where = f"{one_line(path)}: the sample {short(key)}"
            views.append(_view(sample, header, where))
            if len(views) < header.num_views:
                continue
            if len({label for label, _ in views}) > 1:
                raise ValueError(f"{where} has another label than the views before it")
            yield record_of(views[0][0], [own for _, own in views], header, layout, where)
            views, count_read = [], count_read + 1
    if views:
        raise ValueError(f"{folder}: the last image has {len(views)} of {header.num_views} views")
    if count is not None and count_read != count:
        raise ValueError(f"{folder} holds {count_read:,} images, not {count:,}: it is truncated")


def _tars(path: Path) -> list[dict[str, Any]]:
    """Tars listed in an index."""
    shards = read_object(path, MAX_LISTING).get("shards")
    if type(shards) is not list or not all(type(tar) is dict and type(tar.get("name")) is str for tar in shards):
        raise ValueError(f"{path} lists no shards by their names")
    return shards


def _samples(path: Path, header: Header) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar by key."""
    name = one_line(path)
    largest = 4_200 + 8 * header.positions * len(header.codebook_sizes)  # bytes of an array of all its codes
    former, sample = None, {}
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(COMPRESSED):
                raise ValueError(f"{name} is compressed; tars of tokens are not")
        for member, data in members_in(str(path), lambda member: ending_of(member) in ENDINGS):
            key, extension = key_of(member), ending_of(member)
            if len(data) > largest:
                raise ValueError(f"{name}: the sample {short(key)} has {len(data):,} bytes, more than {largest:,}")
            if key != former and sample:
                yield former, sample
                sample = {}
            former, sample[extension] = key, data
    except (UnreadableImage, OSError) as error:
        raise ValueError(f"{name} cannot be read: {one_line(error)}") from error
    if sample:
        yield former, sample


def ending_of(name: str) -> str:
    """First dot of a file's name and what follows it, in lower case."""
    return name.removeprefix(key_of(name)).lower()


def _view(sample: dict[str, bytes], header: Header, where: str) -> tuple[int, dict[str, Any]]:
    """Label of a sample, and its arrays in the form of a line of JSON."""
    endings = (".cls", ".token.npy", *((".length.npy", ".position.npy") if header.grains is not None else ()))
    missing = [ending for ending in endings if ending not in sample]
    if missing or not LABEL.fullmatch(sample[".cls"]):
        raise ValueError(
            f"{where} has no {missing[0]}" if missing else f"{where} has the label {short(sample['.cls'])}"
        )
    label, arrays = int(sample[".cls"]), [read_array(sample[name], f"{where}{name}") for name in endings[1:]]
    if header.grains is None:
        return label, {"tokens": arrays[0]}
    tokens, lengths, positions = arrays
    if lengths.shape != (header.grains,) or lengths.dtype.kind not in "iu":
        raise ValueError(f"{where} has the lengths {short(lengths)}, not one of each of {header.grains} granularities")
    each = [int(length) for length in lengths]
    if min(each) < 0 or {sum(each)} != {array.shape[0] if array.ndim else -1 for array in (tokens, positions)}:
        raise ValueError(f"{where} has the lengths {each}, but tokens {tokens.shape} and positions {positions.shape}")
    ends = np.cumsum(each)[:-1]
    return label, {"tokens": np.split(tokens, ends), "positions": np.split(positions, ends)}


def _bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
