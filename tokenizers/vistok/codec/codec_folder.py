"""Loading of codecs from folders of unknown sources."""

import re
from pathlib import Path

import torch
from torch import Tensor

from vistok.codec.coder import CONFIG, FILLER, FILLER_SIZES, FORMAT, MAX_RATES, TABLES, Codec, Rate
from vistok.codec.codewords import codewords_of, with_codewords
from vistok.codec.filler import Filler
from vistok.codec.frequencies import CLASSES, MAX_SUM, Statistics
from vistok.formats import native
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import read_object, short
from vistok.untrusted.bounded_network import network_of
from vistok.untrusted.tensor_files import read_safetensors


def load(folder: str | Path) -> Codec:
    """Reads a codec that ``Codec.save`` wrote.

    Raises:
        ValueError: The folder has other content.
        FileNotFoundError: A file is missing.
    """
    folder = Path(folder)
    for name in (CONFIG, TABLES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a codec: it has no {name}; python -m vistok codec build writes one"
            )
    config = read_object(folder / CONFIG)
    try:
        if config.get("format") != FORMAT:
            raise ValueError(f"format {short(config.get('format'))}; this version reads {FORMAT}")
        sizes = config.get("rates")
        if type(sizes) is not list or not 1 <= len(sizes) <= MAX_RATES:
            raise ValueError(f"{CONFIG} has rates={short(sizes)}, not from 1 to {MAX_RATES} lists of sizes")
        tensors = _read(folder / TABLES)
    except ValueError as error:
        raise ValueError(f"{folder} is not a codec that can be read: {error}") from error
    tokenizer = native.load(folder)
    try:
        rates = [_rate(tokenizer, tensors, i) for i in range(len(sizes))]
        codec = Codec(tokenizer, rates, load_filler(folder, tokenizer))
        if codec.id.hex() != config.get("id") or [list(rate.sizes) for rate in rates] != sizes:
            raise ValueError("its files do not belong together: they give another id")
    except ValueError as error:
        raise ValueError(f"{folder} is not a codec that can be read: {error}") from error
    return codec


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_safetensors(path).tensors
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _rate(tokenizer: Tokenizer, tensors: dict[str, Tensor], i: int) -> Rate:
    """The i-th rate in the tables of a codec's folder; types and shapes must be those that ``save`` writes."""
    tables, statistics = [], []
    for j, own in enumerate(codewords_of(tokenizer.quantizer)):
        names = [f"{i}.{j}.{name}" for name in ("table", *Statistics._fields)]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"{TABLES} has no tensor {missing[0]}")
        table, frequencies, classes, rows = (tensors[name] for name in names)
        n = len(table) if table.ndim else 0
        shapes = [tuple(tensor.shape) for tensor in (table, frequencies, classes, rows)]
        dtypes = [tensor.dtype for tensor in (table, frequencies, classes, rows)]
        if n < 2 or shapes != [(n, own.shape[1]), (n,), (n,), (CLASSES + 1, CLASSES + 1, n)]:
            raise ValueError(f"tensors of rate {i} have the shapes {shapes}")
        if dtypes != [torch.float32, torch.int32, torch.uint8, torch.int32]:
            raise ValueError(f"tensors of rate {i} are {', '.join(map(str, dtypes))}")
        largest = max(int(frequencies.sum()), int(rows.sum(-1).max()))  # int64
        if frequencies.min() < 1 or rows.min() < 1 or classes.max() >= CLASSES or largest >= MAX_SUM:
            raise ValueError(f"tensors of rate {i} are out of their range")
        tables.append(table)
        statistics.append(Statistics(frequencies.numpy(), classes.numpy(), rows.numpy()))
    return Rate(with_codewords(tokenizer.quantizer, tables), tuple(statistics))


def load_filler(folder: Path, tokenizer: Tokenizer) -> Filler | None:
    """Concealment model of a codec's folder, or None.

    Raises:
        ValueError: The file is damaged, or its sizes do not match its tensors.
    """
    path = folder / FILLER
    if not path.is_file():
        return None
    try:
        tensors, metadata = read_safetensors(path)
        if set(metadata) != set(FILLER_SIZES) or not all(
            re.fullmatch(r"[1-9]\d{0,3}", size) for size in metadata.values()
        ):
            raise ValueError(f"its sizes are {short(metadata)}")
        sizes = {name: int(size) for name, size in metadata.items()}
        if sizes["width"] % sizes["num_heads"]:
            raise ValueError(f"{sizes['num_heads']} attention heads do not divide {sizes['width']} channels")
        filler = network_of(tensors, lambda: Filler(tokenizer.quantizer.dim, **sizes))
    except ValueError as error:
        raise ValueError(f"{path} does not fit: {error}") from error
    return filler.eval().requires_grad_(False)
