"""Shards of tokens on disk: memory-mapped arrays, written atomically, each with its SHA-256.

A shard ``shard-000000`` is ``.tokens.npy``, ``.labels.npy`` and ``.names.json``, with captions ``.captions.json``, for
a dynamic head also ``.positions.npy`` and ``.lengths.npy``, and for images of native size ``.sizes.npy``. While an
extraction runs, ``.json`` beside them marks them as complete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vistok.files import atomic_write, below, sha256_of, write_json
from vistok.quantizers import Codes
from vistok.quantizers.sequences import pack
from vistok.tokens.header import Header
from vistok.untrusted.bounded_json import MAX_LISTING, read_json, short

MAX_IMAGES = 2**40  # most images in a shard
RAGGED, NATIVE_SIZES = ("positions.npy", "lengths.npy"), ("sizes.npy",)


class Packed(NamedTuple):
    """Tokens of several images: a grid for each, or concatenated sequences or grids of different lengths."""

    tokens: np.ndarray  # (n, v, k, *positions); ragged and native (total, k)
    positions: np.ndarray | None = None  # ragged: (total,) raster index in the granularity's grid
    lengths: np.ndarray | None = None  # ragged: (n, v, G) uint32 tokens of each granularity, coarsest first
    sizes: np.ndarray | None = None  # native: (n, 4) uint32 height and width in pixels, and the grid (h, w)


def further_files(header: Header) -> tuple[str, ...]:
    """Kinds of the files that a shard has beside tokens, labels, names and captions."""
    return RAGGED if header.grains is not None else NATIVE_SIZES if header.native else ()


def shard_files(number: int, further: Sequence[str], captions: bool = False) -> dict[str, str]:
    """File names of a shard by content. ``further``: see ``further_files``."""
    kinds = ["tokens.npy", "labels.npy", "names.json", *further, *["captions.json"] * captions]
    return {kind.partition(".")[0]: f"shard-{number:06d}.{kind}" for kind in kinds}


def packed(views: Sequence[Codes], header: Header, size: tuple[int, int] | None = None) -> Packed:
    """Packs the codes of the views of a batch of images in the form of a shard.

    Args:
        views: For each view the codes, and ``keep`` for a dynamic head, of the same images in the same order.
        header: Header of the tokens.
        size: Height and width of the images in pixels, where they have their native size.
    """
    dtype = np.dtype(header.dtype_on_disk)
    if header.native:
        stacked = torch.stack([view.codes for view in views], dim=1)  # (n, v, k, h, w)
        tokens = stacked.movedim(2, 4).reshape(-1, stacked.shape[2])
        rows = np.array([(*(size or (0, 0)), *stacked.shape[3:])] * len(stacked), dtype="uint32").reshape(-1, 4)
        return Packed(tokens.cpu().numpy().astype(dtype), sizes=rows)
    if header.grains is None:
        stacked = torch.stack([view.codes for view in views], dim=1)
        return Packed(stacked.cpu().numpy().astype(dtype))
    sequences = [_sequences(view, header) for view in views]  # [view][codebook]
    of_views = [torch.stack(own[0].lengths, dim=1).tolist() for own in sequences]  # [view][image][granularity]
    tokens, positions, lengths = [], [], []
    for image in range(len(views[0].codes)):
        for own, of_images in zip(sequences, of_views, strict=True):  # codebooks share their positions
            lengths.append(of_images[image])
            for granularity, length in enumerate(of_images[image]):
                tokens.append(torch.stack([codebook.contents[granularity][image, :length] for codebook in own], dim=1))
                positions.append(own[0].positions[granularity][image, :length])
    k, v, total = len(header.codebook_sizes), len(views), sum(map(sum, lengths))
    ids = torch.cat(tokens).numpy() if tokens else np.empty((0, k))
    places = torch.cat(positions).numpy() if positions else np.empty(0)
    return Packed(
        ids.astype(dtype).reshape(total, k),
        places.astype(header.positions_dtype),
        np.array(lengths, dtype="uint32").reshape(-1, v, header.grains),
    )


def joined(parts: Sequence[Packed], header: Header) -> Packed:
    """Concatenates the tokens of several batches."""
    if not parts:  # a part without readable images
        v, k = header.num_views, len(header.codebook_sizes)
        grid = header.grid or (1, 1)
        keep = torch.empty(0, *grid, dtype=torch.bool) if header.grains else None
        return packed([Codes(torch.empty(0, k, *grid, dtype=torch.int64), keep)] * v, header)
    columns = zip(*parts, strict=True)
    return Packed(*(None if column[0] is None else np.concatenate(column) for column in columns))


def write_shard(folder: Path, number: int, tokens: Packed, labels: Sequence[int], names: Sequence[str],
                unreadable: Sequence[str], captions: Sequence[str] | None = None) -> dict[str, Any]:  # fmt: skip
    """Writes the files of a shard, then the note that it is complete; captions only if there are some.

    Returns:
        The note: number of images, unreadable images, and the SHA-256 of each file by content.
    """
    arrays = {name: array for name, array in tokens._asdict().items() if array is not None}
    arrays["labels"] = np.array(labels, dtype=np.int64)
    further = RAGGED if tokens.lengths is not None else NATIVE_SIZES if tokens.sizes is not None else ()
    files = {}
    texts = {"names": names, "captions": captions}
    for kind, name in shard_files(number, further, captions is not None).items():
        if kind in texts:
            write_json(list(texts[kind] or ()), folder / name, indent=None)
        else:
            with atomic_write(folder / name) as file:
                np.save(file, arrays[kind], allow_pickle=False)
        files[kind] = {"name": name, "sha256": sha256_of(folder / name)}
    note = {"images": len(names), "unreadable": sorted(unreadable), "files": files}
    write_json(note, note_path(folder, number))
    return note


def complete(folder: Path, number: int) -> dict[str, Any] | None:
    """Note of a shard whose files all exist and are undamaged; None if it has to be written."""
    path = note_path(folder, number)
    if not path.is_file():
        return None
    note = read_note(folder, number)
    return note if undamaged(folder, note["files"]) else None


def read_note(folder: Path, number: int) -> dict[str, Any]:
    """Note of a shard of a running extraction.

    Raises:
        ValueError: The file does not exist or is not a note.
    """
    path = note_path(folder, number)
    return check_note(read_json(path, MAX_LISTING), number, path)


def notes_of(index: Mapping[str, Any], path: Path, further: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Notes of all shards in an index; ``path`` is the path of the index.

    Raises:
        ValueError: There are no notes, or an entry is not a note.
    """
    shards = index.get("shards")
    if type(shards) is not list or not shards:
        raise ValueError(f"{path} lists no shards")
    return [check_note(note, number, path, further) for number, note in enumerate(shards)]


def check_note(note: Any, number: int, where: Path, further: Sequence[str] | None = None) -> dict[str, Any]:
    """Checks that a note has the form of ``write_shard``: its files are those of its number, in its own folder.

    Args:
        note: Content of a JSON file.
        number: Number of the shard.
        where: Path of the JSON file.
        further: Kinds of its files beside tokens, labels, names and captions, by ``further_files``; None accepts all.

    Raises:
        ValueError: The content is not such a note.
    """
    entry = f"{where}: the entry of shard {number}"
    for name in ("images", "files"):
        if type(note) is not dict or name not in note:
            raise ValueError(f"{entry} lacks {name!r}")
    files = note["files"] if type(note["files"]) is dict else {}
    listed = {kind: own.get("name") if type(own) is dict else None for kind, own in files.items()}
    kinds = ((), RAGGED, NATIVE_SIZES) if further is None else (tuple(further),)
    expected = [shard_files(number, own, captions) for own in kinds for captions in (False, True)]
    if listed not in expected:
        raise ValueError(f"{entry} has the files {short(listed)}, not {expected[0]}")
    if not all(type(own.get("sha256")) is str for own in files.values()):
        raise ValueError(f"{entry} lacks the sha256 of a file")
    images, unreadable = note["images"], note.get("unreadable", [])
    if type(images) is not int or not 0 <= images < MAX_IMAGES:
        raise ValueError(f"{entry} has {short(images)} images")
    if type(unreadable) is not list or not all(type(name) is str for name in unreadable):
        raise ValueError(f"{entry} has unreadable={short(unreadable)}, not names")
    return {**note, "unreadable": unreadable}


def undamaged(folder: Path, files: Mapping[str, Mapping[str, str]]) -> bool:
    """True if all files exist and have the expected SHA-256.

    Raises:
        ValueError: A file name points outside the folder.
    """
    paths = [(below(folder, own["name"], folder), own["sha256"]) for own in files.values()]
    return all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in paths)


def note_path(folder: Path, number: int) -> Path:
    """Path of a shard's note until the index is written."""
    return folder / f"shard-{number:06d}.json"


def _sequences(view: Codes, header: Header) -> list:
    """Sequences of a view for each codebook."""
    columns: list[Tensor] = list(view.codes.cpu().split(1, dim=1))
    keep = view.keep.cpu()
    return [
        pack(Codes(codes, keep), size, header.grains, header.order)
        for codes, size in zip(columns, header.codebook_sizes, strict=True)
    ]
