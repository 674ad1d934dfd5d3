"""LlamaGen's and FQGAN's format: a ``.npy`` of codes and a ``.npy`` of the label for every image.

``NAMESIZE_codes/I.npy`` is (1, v, h·w) int64 and ``NAMESIZE_labels/I.npy`` (1,) int64, as LlamaGen's
``extract_codes_c2i.py`` writes and its training reads them. FQGAN instead has a file for each codebook: ``I_vis.npy``
and ``I_sem.npy``, or ``I_vis.npy``, ``I_sem_mid.npy`` and ``I_sem_high.npy``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vistok.tokens.exchange.records import (
    Advance,
    Record,
    check_layout,
    codes_of,
    ids_of,
    read_header,
    refuse_ragged,
    write_header,
)
from vistok.tokens.header import Header
from vistok.tokens.store import TokenStore
from vistok.untrusted.arrays import read_array

ENDINGS = {2: ("_vis", "_sem"), 3: ("_vis", "_sem_mid", "_sem_high")}  # FQGAN's, in the order of codebooks


def write_llamagen(
    store: TokenStore, folder: Path, layout: str = "interleaved", name: str = "imagenet", advance: Advance | None = None
) -> None:
    """Writes one file for each image; several codebooks are interleaved over one vocabulary.

    Args:
        store: The tokens; every image must have a label.
        folder: An empty folder.
        layout: ``interleaved``.
        name: Name of the data set, as LlamaGen's ``--dataset``.
        advance: Called with the number of images written so far.

    Raises:
        ValueError: The tokens do not fit the format.
    """
    check_layout(layout)
    if layout == "paired" and len(store.header.codebook_sizes) > 1:
        raise ValueError(
            "llamagen has one code at a position: use layout=interleaved, or fqgan, with a file for each codebook"
        )
    refuse_ragged(store.header, "llamagen")
    _write(store, folder, "llamagen", layout, name, [""], advance)


def write_fqgan(
    store: TokenStore, folder: Path, layout: str = "paired", name: str = "imagenet", advance: Advance | None = None
) -> None:
    """Writes one file for each image and codebook. Arguments as for ``write_llamagen``.

    Raises:
        ValueError: The tokens do not fit the format.
    """
    refuse_ragged(store.header, "fqgan")
    k = len(store.header.codebook_sizes)
    if k not in ENDINGS or layout != "paired":
        raise ValueError(f"fqgan has 2 or 3 codebooks, paired; these tokens have {k}, and layout={layout}")
    _write(store, folder, "fqgan", layout, name, ENDINGS[k], advance)


def read_llamagen(folder: Path, header: Header | None = None) -> Iterator[Record]:
    """Reads images in LlamaGen's format, in order.

    Args:
        folder: Folder with ``*_codes``, ``*_labels`` and ``header.json``.
        header: Replaces ``header.json``, for files that LlamaGen's own script wrote.

    Raises:
        ValueError: A file is missing, damaged or does not fit the header.
    """
    return _read(folder, "llamagen", header)


def read_fqgan(folder: Path, header: Header | None = None) -> Iterator[Record]:
    """Reads images in FQGAN's format, in order. Arguments as for ``read_llamagen``."""
    return _read(folder, "fqgan", header)


def _write(store: TokenStore, folder: Path, form: str, layout: str, name: str, endings: Sequence[str],
           advance: Advance | None) -> None:  # fmt: skip
    unlabelled = np.flatnonzero(store.labels < 0)
    if len(unlabelled):
        raise ValueError(f"{form} has a label for every image, but {store.names[unlabelled[0]]} has none")
    codes_folder, labels_folder = (folder / f"{name}{store.header.image_size}_{part}" for part in ("codes", "labels"))
    for created in (codes_folder, labels_folder):
        created.mkdir(parents=True)
    for i, label in enumerate(store.labels):
        codes = store.codes(i)
        parts = [ids_of(codes, store.header, layout)] if endings == [""] else list(_flat(codes))
        for ending, ids in zip(endings, parts, strict=True):
            np.save(codes_folder / f"{i}{ending}.npy", ids[None])
        np.save(labels_folder / f"{i}.npy", np.array([label], dtype=np.int64))
        if advance:
            advance(i + 1)
    write_header(store, folder, form, layout)


def _flat(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Codes (v, h·w) of each codebook from codes (v, k, h, w)."""
    return (codes[:, j].reshape(len(codes), -1) for j in range(codes.shape[1]))


def _read(folder: Path, form: str, header: Header | None) -> Iterator[Record]:
    folder, count = Path(folder), None
    if header is None:
        header, about = read_header(folder, form)
        count = about["images"]
    found = sorted(folder.glob("*_codes"))
    if len(found) != 1:
        raise ValueError(f"{folder} has {len(found)} folders named *_codes, not one")
    codes_folder = found[0]
    labels_folder = codes_folder.with_name(codes_folder.name.removesuffix("_codes") + "_labels")
    k = len(header.codebook_sizes)
    endings = [""] if form == "llamagen" else ENDINGS.get(k)
    if endings is None:
        raise ValueError(f"{folder}: fqgan has 2 or 3 codebooks, not {k}")
    labels = len(list(labels_folder.glob("*.npy")))
    if count is not None and labels != count:
        raise ValueError(f"{labels_folder} holds the labels of {labels:,} images, not {count:,}")
    for i in range(labels):
        yield _record(codes_folder, labels_folder, i, endings, header)


def _record(codes_folder: Path, labels_folder: Path, i: int, endings: Sequence[str], header: Header) -> Record:
    paths = [codes_folder / f"{i}{ending}.npy" for ending in endings]
    parts = [read_array(path, str(path)) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.ndim != 3 or part.shape[:2] != (1, header.num_views) or part.shape != parts[0].shape:
            raise ValueError(f"{path}: the shape is {part.shape}, not (1, {header.num_views}, tokens)")
    where = labels_folder / f"{i}.npy"
    label = read_array(where, str(where))
    if label.size != 1 or label.dtype.kind not in "iu" or int(label.item()) >= 2**63:
        raise ValueError(f"{where} holds {label.dtype} {label.shape}, not one label")
    views = parts[0][0] if len(parts) == 1 else np.stack([part[0] for part in parts], axis=-1)
    layout = "interleaved" if len(parts) == 1 else "paired"
    codes = np.stack([codes_of(own, header, layout, str(paths[0])) for own in views])
    return Record(int(label.item()), codes)
