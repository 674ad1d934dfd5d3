"""Damaged files by the ten thousand, for every reader: each is read, or refused with a ValueError that names the file.

    python benchmarks/fuzz_reading.py [--reader config store ...] [--inputs 20000] [--seed 0]

For each reader small good examples are written (``EXAMPLES``) and damaged with what their format is in mind: values of
JSON of another type or size, headers of arrays and safetensors that lie consistently, members of archives changed under
right checksums, fields of a compressed image likewise; and every file as plain bytes, cut, overwritten, shuffled,
spliced. A process for each reader reads them all, one after the other, with 512 MiB of address space more than it has
after reading the good examples. A failure is any other exception, a message without the file or of several lines, more
than 1 s of CPU for one input, memory that is not there, a crash, or, where a checksum is left as it was, something
else read than was written. The damaged file stays in ``fuzz-READER`` for a look.
"""

import argparse
import collections
import copy
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import (
    BranchedEncoder,
    CNNDecoder,
    CNNEncoder,
    HierarchicalEncoder,
    MagvitDecoder,
    MagvitEncoder,
    PositionalDecoder,
    ViTDecoder,
    ViTEncoder,
)
from vistok.codec import codec_folder as codec_reading
from vistok.codec import coder as codecs
from vistok.codec import stream
from vistok.codec.coder import decompress_file
from vistok.codec.filler import Filler
from vistok.codec.frequencies import gather
from vistok.data.parquet_samples import images_of_parquet
from vistok.data.shard_image import ShardContent
from vistok.evaluation import compare
from vistok.evaluation.report import comparison_page, differences, rate_plot, score_table
from vistok.files import write_json
from vistok.formats import load, native
from vistok.formats.exporters import to_published
from vistok.formats.importers import from_bsqvit, from_llamagen, from_taming
from vistok.formats.importers.key_map import to_theirs
from vistok.formats.tokenizer_paths import SETTINGS
from vistok.images.rgb_view import RGBView
from vistok.quantizers import (
    IBQ,
    BinaryQuantizer,
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    GumbelQuantizer,
    MultiScaleQuantizer,
    Quantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from vistok.quantizers.vq import plain
from vistok.tokens import Header, TokenStore
from vistok.tokens.exchange import READERS as FORMS
from vistok.tokens.exchange import WRITERS
from vistok.tokens.header import INDEX
from vistok.tokens.token_shards import Packed, write_shard
from vistok.training import slim_checkpoint
from vistok.untrusted.safe_pickle import Stub
from vistok.untrusted.torch_files import read_tensors

MEMORY, SECONDS, HANG, LONGEST = 512 * 2**20, 1.0, 30, 2_000  # bytes; of CPU, of the clock; characters of a message

Draw = random.Random


# ---------------------------------------------------------------------------------------------------------- damages

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 8, 2**16, 2**31 - 1, 2**31, 2**63, 10**18, 10**30, -(10**30)),
    *(0.5, -0.0, 1e308, 1e-308, float("nan"), float("inf"), -float("inf")),
    *("", "64", "none", "flip", "Conv2d", "../x", "pipe:touch PWN", "\x1b[2J\n", "é\ud800", "a" * 5_000, "9" * 5_000),
    *([], {}, [[]], [0], [1, 2], [1] * 3_000, {"class": "Conv2d"}, {"class": []}, {"class": "VectorQuantizer"}),
    *(list(range(5)), [2**62] * 3, ["a" * 100_000, *"b" * 100], [None], [[[[[1]]]]]),
]
TEXTS = (
    b"[" * 100_000,
    b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    b"9" * 10_000,
    b'{"format": 1, "format": 1}',
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}",
    b"",
    b"null",
    b"NaN",
    b'"a"',
    b"[1, 2]",
    b'{"a": 1e999999}',
)


def damaged(name: str, content: bytes, draw: Draw) -> bytes:
    """The content of a file called ``name`` after some damage that its format is open to, or as plain bytes."""
    structural = {
        ".json": of_json,
        ".jsonl": of_lines,
        ".npy": of_array,
        ".tar": of_tar,
        ".safetensors": of_safetensors,
        ".ckpt": of_zip,
        ".pt": of_zip,
        ".pth": of_zip,
        ".npz": of_arrays,
        ".vtk": of_stream,
        ".parquet": of_parquet,
    }.get(Path(name).suffix)
    if structural and draw.random() < 0.75:
        return structural(content, draw)
    return of_bytes(content, draw)


def of_parquet(content: bytes, draw: Draw) -> bytes:
    """The pages, or the footer that describes them, damaged as plain bytes; the length of the footer is right."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    pages, footer = content[:start], content[start:-8]
    if draw.random() < 0.3:
        pages = of_bytes(pages, draw)
    else:
        footer = of_bytes(footer, draw)
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def of_bytes(content: bytes, draw: Draw) -> bytes:
    kind = draw.choice(["cut", "bits", "bytes", "shuffled", "spliced", "number", "dtype"])
    data = bytearray(content)
    if kind == "cut" or not data:
        return bytes(data[: draw.randrange(len(data) + 1)])
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(data))
        if kind == "bits":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "bytes":
            data[at] = draw.randrange(256)
        elif kind == "shuffled":
            part = data[at : at + 16]
            draw.shuffle(part)
            data[at : at + 16] = part
        elif kind == "spliced":
            other = draw.randrange(len(data))
            data[at:at] = data[other : other + draw.randint(1, 64)]
        elif kind == "number":
            size = draw.choice([4, 8])
            value = draw.choice([0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1])
            data[at : at + size] = value.to_bytes(size, "little")
        else:
            for former in STORAGES:
                if draw.random() < 0.5:
                    data = data.replace(former, draw.choice(STORAGES), 1)
    return bytes(data)


def of_json(content: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.05:
        return draw.choice(TEXTS)
    tree = json.loads(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        tree = of_tree(tree, draw)
    return json.dumps(tree).encode()


def of_tree(tree: Any, draw: Draw) -> Any:
    """Plain content with one of its values changed, left out, called something else or put elsewhere."""
    places, pending = [], [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, dict | list) and len(part) < 1_000:
            keys = list(part) if isinstance(part, dict) else range(len(part))
            places += [(part, key) for key in keys]
            pending += [part[key] for key in keys]
    if not places or draw.random() < 0.02:
        return odd(draw)
    part, key = draw.choice(places)
    kind = draw.choice(["odd", "odd", "number", "number", "drop", "rename", "swap", "nest", "repeat"])
    value = part[key]
    if kind == "number" and isinstance(value, int | float):
        part[key] = draw.choice([value + 1, value - 1, -value, value * 2, value * 10**6, value / 3, str(value)])
    elif kind == "drop":
        del part[key]
    elif kind == "rename" and isinstance(part, dict):
        part[draw.choice([f"{key}2", "class", "", "\x1b[31m", "x" * 10_000, str(draw.choice(list(part)))])] = value
    elif kind == "swap":
        other, at = draw.choice(places)
        part[key] = json.loads(json.dumps(other[at]))
    elif kind == "nest":
        for _ in range(draw.choice([1, 2, 70])):
            value = draw.choice(
                [lambda inner: [inner], lambda inner: {"class": "PositionalDecoder", "decoder": inner}]
            )(value)
        part[key] = value
    elif kind == "repeat" and isinstance(value, list) and len(value) < 1_000:
        part[key] = value * draw.choice([2, 100])
    else:
        part[key] = odd(draw)
    return tree


def odd(draw: Draw) -> Any:
    """A value of its own: others are changed in place."""
    return copy.deepcopy(draw.choice(ODD))


def of_lines(content: bytes, draw: Draw) -> bytes:
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    kind = draw.choice(["line", "line", "line", "drop", "repeat", "order"])
    if kind == "line":
        lines[at] = of_json(lines[at], draw) + draw.choice([b"\n", b"\n", b"", b"\n\n"])
    elif kind == "drop":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, draw.choice(lines))
    else:
        draw.shuffle(lines)
    return b"".join(lines)


DESCRS = (
    "'<i8'",
    "'>i4'",
    "'<u2'",
    "'|O'",
    "'<f8'",
    "'|b1'",
    "'<U9'",
    "'|V8'",
    "'<i3'",
    "''",
    "[('a', '<i8')]",
    "b'<i8'",
)
SHAPES = ("()", "(0,)", "(1000000000000,)", "(-1,)", "(4611686018427387904, 4)", "('a',)", "(1.5,)", "(1, (2, 3))")
SHAPES += ("(2L,)", "(1,", "[4]", "(True,)", "(281474976710655, 0)", f"({'1, ' * 40})", "(" + "9" * 3000 + ",)")
HEADERS = (
    b"(" * 5000,
    b"-" * 5000 + b"1",
    b"{'descr': '<i8",
    b"__import__('os').system('touch PWN')",
    b"\n  x\n y",
    b"",
)


def of_array(content: bytes, draw: Draw) -> bytes:
    length = int.from_bytes(content[8:10], "little")
    header, values = content[10 : 10 + length], content[10 + length :]
    version = draw.choice([1, 1, 1, 2, 3, 9])
    kind = draw.choice(["descr", "shape", "fortran", "text", "values", "length"])
    if kind == "descr":
        header = re.sub(rb"'descr': '[^']*'", f"'descr': {draw.choice(DESCRS)}".encode(), header)
    elif kind == "shape":
        header = re.sub(rb"\([\d, ]*\)", draw.choice([*SHAPES, odd_shape(draw)]).encode(), header)
    elif kind == "fortran":
        header = header.replace(b"False", draw.choice([b"True", b"None", b"0"]))
    elif kind == "text":
        header = draw.choice(HEADERS)
    elif kind == "values":
        size = max(1, len(values) // 8)
        values = np.array([draw.choice([0, 1, -1, 5, 2**15, 2**40, -(2**63)]) for _ in range(size)], "<i8").tobytes()
    stated = len(header) if kind != "length" else draw.choice([0, 1, 2**16 - 1, 2**31])
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + (stated % 2 ** (8 * width)).to_bytes(width, "little") + header + values


def odd_shape(draw: Draw) -> str:
    return str(tuple(draw.choice([0, 1, 2, 3, 4, 8, 16]) for _ in range(draw.randint(0, 5))))


def of_tar(content: bytes, draw: Draw) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive.getmembers()]
    i = draw.randrange(len(members))
    info, data = members[i]
    kind = draw.choice(["data", "data", "data", "name", "drop", "repeat", "order", "type", "gzip"])
    if kind == "data":
        changed = damaged(info.name, data, draw) if info.name.endswith(".npy") else of_label(data, draw)
        members[i] = (info, changed)
    elif kind == "name":
        info.name = draw.choice(
            ["../x.cls", "/x.token.npy", "\x1b[2J.cls", "00000000_0.cls", f"{'y' * 300}.token.npy", ""]
        )
    elif kind == "drop":
        del members[i]
    elif kind == "repeat":
        members.insert(draw.randrange(len(members)), members[i])
    elif kind == "order":
        draw.shuffle(members)
    elif kind == "type":
        info.type, info.linkname = (
            draw.choice([tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]),
            "x",
        )
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=draw.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return gzip.compress(file.getvalue()) if kind == "gzip" else file.getvalue()


def of_label(data: bytes, draw: Draw) -> bytes:
    return draw.choice([b"", b"-1", b"-2", b"x", b"1_0", b" 3", b"9" * 30, b"9" * 5_000, b"nan", b"\xff", data * 9])


DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "F8_E4M3": 1, "C64": 8, "F4": 1, "X": 4}  # fmt: skip


def of_safetensors(content: bytes, draw: Draw) -> bytes:
    """A file whose header was changed and whose offsets are right again, for what has an effect behind the library."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    told = header.pop("__metadata__", None)
    tensors = {name: (own["dtype"], own["shape"], data[slice(*own["data_offsets"])]) for name, own in header.items()}
    name = draw.choice(list(tensors))
    dtype, shape, held = tensors[name]
    kind = draw.choice(["shape", "shape", "dtype", "name", "number", "drop", "more", "told", "values", "header"])
    if kind == "shape":
        others = [[], [0], [2**40, 0], [0, 2**60], [1, *shape], shape[::-1], shape[1:], [2 * n for n in shape]]
        shape = draw.choice([*others, [draw.choice([0, 1, 2, 3, 4, 9, 4096]) for _ in shape]])
        tensors[name] = resized(dtype, shape, held)
    elif kind == "dtype":
        tensors[name] = resized(draw.choice(list(DTYPES)), shape, held)
    elif kind in ("name", "number"):
        del tensors[name]
        other = re.sub(r"\d+", lambda _: draw.choice(["0", "1", "7", "99999", "999999999", "9" * 5000]), name)
        strange = draw.choice([f"{name}2", "", "\x1b[2J\n", "x" * 5_000, f"module.{name}", f"model_ema.{name}", "é"])
        tensors[other if kind == "number" else strange] = (dtype, shape, held)
    elif kind == "drop":
        for dropped in draw.sample(list(tensors), draw.randint(1, len(tensors))):
            del tensors[dropped]
    elif kind == "more":
        tensors |= {f"{name}.{i}": (dtype, shape, held) for i in range(draw.choice([1, 300]))}
    elif kind == "told":
        for _ in range(draw.randint(1, 2)):
            told = {key: str(value) for key, value in (told or {"a": "b"}).items()}
            told[draw.choice([*told, "depth"])] = draw.choice(
                [str(value) for value in ODD if str(value).isprintable()] + ["4096"]
            )
    elif kind == "values":
        tensors[name] = (dtype, shape, draw.choice([b"\xff", b"\0", b"\x7f\xc0", b"\x01"]) * len(held))
        tensors[name] = resized(*tensors[name])
    at, made = 0, {} if told is None else {"__metadata__": told}
    for name, (dtype, shape, held) in tensors.items():
        made[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(held)]}
        at += len(held)
    text = json.dumps(of_tree(made, draw) if kind == "header" else made).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(held for _, _, held in tensors.values())


def resized(dtype: str, shape: list[int], held: bytes) -> tuple[str, list[int], bytes]:
    size = min(int(np.prod([float(n) for n in shape])) * DTYPES[dtype], 2**20)
    return dtype, shape, (held * (size // max(1, len(held)) + 1))[:size] if held else bytes(size)


STORAGES = (b"FloatStorage", b"HalfStorage", b"LongStorage", b"ByteStorage", b"BoolStorage", b"QInt8Storage")


def of_zip(content: bytes, draw: Draw) -> bytes:
    """Members of torch's zip damaged, put in another order or dropped, and written with right checksums."""
    if content[:2] != b"PK":
        return of_bytes(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    if draw.random() < 0.2:
        draw.shuffle(members)
        del members[: draw.randint(0, 2)]
    else:
        i = 0 if draw.random() < 0.8 else draw.randrange(len(members))  # data.pkl comes first
        members[i] = (members[i][0], of_bytes(members[i][1], draw))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, inner in members:
            archive.writestr(name, inner)
    return file.getvalue()


def of_arrays(content: bytes, draw: Draw) -> bytes:
    """Arrays damaged, missing, in another order or much larger than they seem, and written with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = draw.randrange(len(members))
    name, held = members[i]
    kind = draw.choice(["array", "array", "array", "drop", "name", "large", "bytes"])
    if kind == "array":
        members[i] = (name, of_array(held, draw))
    elif kind == "drop":
        del members[i]
    elif kind == "name":
        members[i] = (draw.choice(["x.npy", "names.npy", "../names.npy", name]), held)
    elif kind == "large":
        members[i] = (name, held + bytes(2**24))
    else:
        members[i] = (name, of_bytes(held, draw))
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, inner in members:
            archive.writestr(name, inner)
    return file.getvalue()


def of_stream(content: bytes, draw: Draw) -> bytes:
    """A compressed image with other numbers in its header, or damaged packets, under right checksums."""
    header, packets = stream.unpack(content)
    kind = draw.choice(["header", "header", "packet", "packet", "packets"])
    if kind == "header":
        name = draw.choice(["width", "height", "rate", "coding"])
        limit = 256 if name in ("rate", "coding") else 2**28
        value = draw.choice([0, 1, 2, 3, 5, 64, 255, 256, 2**16, 2**27, 2**28 - 1])
        header = header._replace(**{name: value % limit})
    elif kind == "packet":
        i = draw.randrange(len(packets))
        packets[i] = of_bytes(packets[i], draw)
    else:
        packets = draw.choice([packets[::-1], packets[:1], packets * 2, packets * 60, [b""] * 255])[:255]
    return stream.pack(header, packets)


# --------------------------------------------------------------------------------------------------------- examples


def networks(**more: Any) -> tuple[CNNEncoder, CNNDecoder]:
    size: dict[str, Any] = {"channels": 2, "multipliers": (1,), "num_blocks": 0, "attention": (), "dim": 4}
    size |= {"mid_attention": False} | more
    return CNNEncoder(**size), CNNDecoder(**size)


def tokenizers() -> dict[str, Tokenizer]:
    """A tokenizer for each kind of backbone, with heads of several kinds."""
    torch.manual_seed(0)
    encoder, decoder = networks(num_blocks=1)
    cnn = Tokenizer(encoder, plain(torch.randn(8, 4)), decoder, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    size: dict[str, Any] = {"dim": 8, "depth": 1, "num_heads": 2, "head_dim": 4, "patch": 2, "image_size": 4}
    vit = Tokenizer(ViTEncoder(**size), BinaryQuantizer(8, group=4), ViTDecoder(**size, positions="sincos"))
    branched = BranchedEncoder(2, (1,), 0, (), dim=4, branches=2, grid=2, depth=1, heads=1)
    fq = Tokenizer(branched, FactorizedQuantizer([plain(torch.randn(8, 2)) for _ in range(2)]), networks()[1])
    dynamic = DynamicQuantizer(plain(torch.randn(8, 4)), FeatureRouter(4, 2, groups=2), rates=[0.5])
    maps = HierarchicalEncoder(2, (1, 1), 0, (), dim=4)
    dq = Tokenizer(maps, dynamic, PositionalDecoder(networks()[1], 4, grid=2))
    return {"cnn": cnn, "vit": vit, "fq": fq, "dq": dq}


def exported(folder: Path, *names: str) -> None:
    for name, tokenizer in tokenizers().items():
        if name in (names or (name,)):
            native.save(tokenizer.eval(), folder / name)


CONTENTS = {
    "state_dict": collections.OrderedDict(
        {f"encoder.{i}": torch.full((3, 4), float(i)) for i in range(4)} | {"half": torch.ones(5).bfloat16()[1:]}
    ),
    "score": np.float64(0.5),
    "args": argparse.Namespace(codebook_size=16),
    "step": 7,
}


def checkpoint(folder: Path) -> None:
    options = {"zip2": {}, "zip4": {"pickle_protocol": 4}, "older": {"_use_new_zipfile_serialization": False}}
    for name, own in options.items():
        (folder / name).mkdir(parents=True)
        torch.save(CONTENTS, folder / name / f"{name}.ckpt", **own)
    (folder / "safetensors").mkdir()
    safetensors.torch.save_file(dict(CONTENTS["state_dict"]), folder / "safetensors" / "weights.safetensors")


def published(folder: Path) -> None:
    """Files in three authors' layouts: as a checkpoint, and as safetensors."""
    torch.manual_seed(0)
    encoder, decoder = networks(num_blocks=1, mid_attention=True, attention=(0,))
    cnn = Tokenizer(encoder, VectorQuantizer(8, 4), decoder, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    size: dict[str, Any] = {"dim": 8, "depth": 1, "num_heads": 2, "head_dim": 4, "mlp_ratio": 1, "patch": 2}
    size |= {"image_size": 4, "pre_norm": True}
    pair = ViTEncoder(**size, output_mlp_ratio=None), ViTDecoder(**size, output_mlp_ratio=1)
    vit = Tokenizer(pair[0], BinaryQuantizer(4), pair[1], nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1))
    for name, rules, model in [("taming", from_taming.RULES, cnn), ("llamagen", from_llamagen.RULES, cnn),
                               ("bsqvit", from_bsqvit.RULES, vit)]:  # fmt: skip
        theirs = {key: value.contiguous() for key, value in to_theirs(rules, model.state_dict(), 1).items()}
        (folder / name).mkdir(parents=True)
        if name == "taming":
            torch.save({"state_dict": theirs}, folder / name / "model.ckpt")
        else:
            safetensors.torch.save_file(theirs, folder / name / "model.safetensors")


def written(folder: Path) -> None:
    """Folders in the layouts that are written, with their settings, and one whose weights are in two files."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"channels": 32, "multipliers": (1,), "num_blocks": 1, "dim": 4}

    def cnn(head: Quantizer, k: int = 1) -> Tokenizer:
        pair = [cls(**size, attention=(0,)) for cls in (CNNEncoder, CNNDecoder)]
        return Tokenizer(pair[0], head, pair[1], *(nn.Conv2d(4, 4, k, padding=k // 2) for _ in range(2)))

    def magvit(**bits: Any) -> Tokenizer:
        head = BinaryQuantizer(4, spherical=False, temperature=0.01, group=None, **bits)
        return Tokenizer(MagvitEncoder(**size), head, MagvitDecoder(**size, adaptive=True))

    made = {
        "ibq": cnn(IBQ(8, 4)),
        "taming_ema": cnn(VectorQuantizer(8, 4, ema_decay=0.9)),
        "gumbel": cnn(GumbelQuantizer(8, 4)),
        "rqvae": cnn(ResidualQuantizer([VectorQuantizer(8, 4)], 2)),
        "var": cnn(MultiScaleQuantizer(VectorQuantizer(8, 4), (1, 2)), k=3),
        "openmagvit2": magvit(),
        "wetok": magvit(num_codebooks=2, pooled=True),
        "bitdance": magvit(num_codebooks=2, pooled=True),
    }
    for name, model in made.items():
        layout = to_published.WRITTEN[name]
        assert layout.write and layout.container
        (folder / name).mkdir(parents=True)
        published = layout.write(model.eval())
        path = to_published.write_weights(layout, published, folder / name)
        to_published.write_settings(layout.container, published, folder / name)
        note = {"weights": path.name, "family": name, "config": published.config}
        write_json(note, folder / name / SETTINGS)
    theirs = {key: value.contiguous() for key, value in to_theirs(from_taming.RULES, made["ibq"].state_dict()).items()}
    (folder / "index").mkdir()
    parts, places = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), {}
    for i, part in enumerate(parts):
        names = sorted(theirs)[i::2]
        safetensors.torch.save_file({key: theirs[key] for key in names}, folder / "index" / part)
        places |= dict.fromkeys(names, part)
    write_json({"metadata": {}, "weight_map": places}, folder / "index" / "model.safetensors.index.json")


def small_filler() -> Filler:
    torch.manual_seed(0)
    return Filler(4, width=4, depth=1, num_heads=2, window=2).eval()


def small_codec(filler: Filler | None = None) -> codecs.Codec:
    torch.manual_seed(0)
    encoder, decoder = networks(patch=4)
    tokenizer = Tokenizer(encoder, plain(torch.randn(8, 4)), decoder).eval().requires_grad_(False)
    rng, rates = np.random.default_rng(0), []
    for size in (8, 4):
        table = torch.randn(size, 4)
        rates.append(codecs.Rate(plain(table), (gather(table, rng.integers(0, size, (4, 4, 4))),)))
    return codecs.Codec(tokenizer, rates, filler)


def codec_folder(folder: Path) -> None:
    small_codec().save(folder / "codec")


def concealment(folder: Path) -> None:
    (folder / "codec").mkdir(parents=True)
    codecs.save_filler(small_filler(), folder / "codec")


def compressed(folder: Path) -> None:
    """A codec's folder, and beside it images compressed in every way."""
    codec = small_codec(small_filler())
    codec.save(folder / "codec")
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 13, 18)).astype(np.uint8))
    for coding, packets in (("fixed", 1), ("static", 1), ("context", 1), ("static", 4), ("fixed", 3)):
        name = f"{coding}{packets}"
        (folder / name).mkdir()
        (folder / name / "image.vtk").write_bytes(codec.compress(image, 0, coding, packets))


def header(**values: Any) -> Header:
    own: dict[str, Any] = {
        "tokenizer": "runs/a",
        "tokenizer_sha256": "0" * 64,
        "codebook_sizes": (8,),
        "factor": 4,
        "grid": (2, 2),
        "grains": None,
        "order": None,
        "rate": None,
        "image_size": 8,
        "crop": "adm",
        "views": "none",
        "ten_crop_size": None,
        "dtype": "float32",
        "batch_size": 2,
        "device": "cpu",
        "classes": ("cat", "dog"),
    }
    return Header(**own | values)


def stores(folder: Path) -> None:
    """Tokens of one codebook, of two with mirror images, and of a dynamic head."""
    rng = np.random.default_rng(0)
    plain_tokens = rng.integers(0, 8, (2, 1, 1, 2, 2)).astype("uint16")
    paired = np.stack([rng.integers(0, n, (2, 2, 2, 2)) for n in (8, 5)], axis=2).astype("uint16")
    ragged = Packed(
        rng.integers(0, 8, (8, 1)).astype("uint16"),
        np.array([0, 2, 3, 6, 7, 0, 1, 1], dtype="uint16"),  # a coarse cell and four fine ones; then ...
        np.array([[[1, 4]], [[2, 0]]], dtype="uint32"),
    )
    ragged = ragged._replace(tokens=ragged.tokens[:7], positions=ragged.positions[:7])
    for name, own, tokens in (
        ("vq", header(), Packed(plain_tokens)),
        ("fq", header(codebook_sizes=(8, 5), views="flip"), Packed(paired)),
        ("dq", header(grid=(2, 4), grains=2, order="region", rate=0.5), ragged),
    ):
        (folder / name).mkdir(parents=True)
        note = write_shard(folder / name, 0, tokens, [0, 1], ["cat/a.png", "dog/b.png"], [])
        write_json(own.json() | {"images": 2, "unreadable": 0, "shards": [note]}, folder / name / INDEX)
        (folder / name / "shard-000000.json").unlink()


def evaluation(folder: Path) -> None:
    """The files of an evaluation of two tokenizers on twelve images."""
    (folder / "one").mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays, scores = {"names": np.array([f"{i}.png" for i in range(12)])}, []
    for i, name in enumerate("ab"):
        arrays[f"{i}/canonical/psnr"] = rng.normal(25, 3, 12).astype("float32")
        metrics = {"psnr": 25.0, "rfid": 3.0, "tokens_per_image": 16.0, "bits_per_pixel_entropy": 0.5}
        scores.append({"tokenizer": name, "protocol": "canonical", "hash": "0", "metrics": metrics})
    content = {
        "protocols": {"canonical": {"hash": "0", "crop": "adm", "distances": ["psnr"]}},
        "tokenizers": [{"tokenizer": name, "sha256": name} for name in "ab"],
        "scores": scores,
        "data": {"images": 12, "image_size": 32, "sha256_of_names": "0"},
        "rate": None,
    }
    write_json(content, folder / "one" / "a.json")
    np.savez_compressed(folder / "one" / "a.npz", **arrays)


def form(name: str, *kinds: str) -> Callable[[Path], None]:
    """The writer of the tokens of some kinds in one form, in every layout that it has."""

    def make(folder: Path) -> None:
        stores(folder / "stores")
        for kind in kinds:
            for layout in ("interleaved", "paired"):
                if (layout == "paired") == (name == "fqgan") or (kind == "fq" and name in ("jsonl", "webdataset")):
                    WRITERS[name](TokenStore(folder / "stores" / kind), folder / f"{kind}-{layout}", layout)
        shutil.rmtree(folder / "stores")

    return make


# ---------------------------------------------------------------------------------------------------------- readers


class Reader(NamedTuple):
    """One reader and what it reads."""

    make: Callable[[Path], None]  # writes good examples into subfolders of a folder
    damage: str  # a pattern of the files to damage, in those subfolders
    read: Callable[[Path], Any]  # reads all of one subfolder
    intact: Callable[[Path, Any], bool] = lambda path, found: True  # whether it may be what was read, damaged as it is


def read_checkpoint(folder: Path) -> Any:
    """Every value too, so that a tensor beyond its storage would crash."""
    tree = read_tensors(next(folder.iterdir())).tree
    pending = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, torch.Tensor):
            part.clone() if part.is_complex() else part.to(torch.float64, copy=True)
        elif type(part) in (dict, list, tuple):
            pending += part.values() if type(part) is dict else part
    return tree


def unforged(path: Path, found: Any) -> bool:
    """A zip whose checksums are the former ones holds what it held."""
    if path.stat().st_size == 0 or not path.name.startswith("zip") or any(
        info.date_time[0] > 1980 for info in zipfile.ZipFile(path).infolist()  # written by of_zip
    ):  # fmt: skip
        return True
    return same(found, CONTENTS)


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return type(ours) is dict and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    return type(ours) is Stub if isinstance(theirs, argparse.Namespace) else ours == theirs


def read_published(folder: Path) -> Any:
    file = next(folder.iterdir())
    return load.load(file, folder.name, {"vitconfig": {"heads": 2}})


def read_written(folder: Path) -> Any:
    return load.load(folder, "ibq" if folder.name == "index" else None)


trained = cache(tokenizers)
loaded = cache(codec_reading.load)
small = cache(small_codec)


def read_init(folder: Path) -> None:
    begun = SimpleNamespace(tokenizer=trained()[folder.name], average=None, view=RGBView())
    slim_checkpoint.load_slim(begun, folder / native.WEIGHTS)  # type: ignore[arg-type]


def read_compressed(folder: Path) -> Any:
    codec = loaded(folder.parent / "codec")
    return decompress_file(codec, folder / "image.vtk", conceal=True)


def read_store(folder: Path) -> None:
    store = TokenStore(folder)
    for i in range(min(len(store), 4)):
        store.codes(i), store.label(i)
        if store.header.grains is not None:
            store.sequences([i])
    _ = store.labels, store.names


def parquet_files(folder: Path) -> None:
    """Two files of images with labels and captions, as Hugging Face writes them, and of plain bytes."""
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": file.getvalue(), "path": f"{i}.png"} for i in range(7)], struct)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["ant", "cat"]}}
    described = pyarrow.table({"image": images, "label": [0, 1, 0, 1, 0, 1, 0], "text": ["one"] * 7})
    described = described.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    plain = pyarrow.table({"image": [file.getvalue()] * 5, "label": list(range(5))})
    for name, table in (("described", described), ("plain", plain)):
        (folder / name).mkdir(parents=True)
        parquet.write_table(table, folder / name / "a.parquet", row_group_size=3)


def read_parquet(folder: Path) -> Any:
    return list(images_of_parquet(str(folder / "a.parquet"), ShardContent(("label", "caption"))))


def read_evaluation(folder: Path) -> None:
    comparison = compare([folder / "a.json"])
    score_table.scores_table(comparison, differences.caption_of(comparison))
    comparison_page.table(comparison), differences.section(comparison), rate_plot.curves(comparison)


READERS = {
    "config": Reader(exported, "config.json", vistok.load),
    "weights": Reader(lambda folder: exported(folder, "cnn", "vit"), "model.safetensors", vistok.load),
    "init": Reader(lambda folder: exported(folder, "cnn", "vit"), "model.safetensors", read_init),
    "checkpoint": Reader(checkpoint, "*", read_checkpoint, unforged),
    "published": Reader(published, "*", read_published),
    "written": Reader(written, "*", read_written),
    "codec": Reader(codec_folder, "codec.*", codec_reading.load),
    "concealment": Reader(concealment, "*", lambda folder: codec_reading.load_filler(folder, small().tokenizer)),
    "stream": Reader(compressed, "*.vtk", read_compressed),
    "store": Reader(stores, "*", read_store),
    "verify": Reader(stores, "*", lambda folder: list(TokenStore(folder).verify())),
    "evaluation": Reader(evaluation, "*", read_evaluation),
    "parquet": Reader(parquet_files, "*.parquet", read_parquet),
    "jsonl": Reader(form("jsonl", "vq", "fq", "dq"), "*", lambda folder: list(FORMS["jsonl"](folder))),
    "webdataset": Reader(form("webdataset", "vq", "fq", "dq"), "*", lambda folder: list(FORMS["webdataset"](folder))),
    "llamagen": Reader(form("llamagen", "vq", "fq"), "**/*", lambda folder: list(FORMS["llamagen"](folder))),
    "fqgan": Reader(form("fqgan", "fq"), "**/*", lambda folder: list(FORMS["fqgan"](folder))),
}


class Counts(NamedTuple):
    """Counts of the outcomes of the inputs."""

    refused: int
    read: int
    slowest: float  # seconds of CPU


class Failure(AssertionError):
    """A reader did something else than read or refuse."""


def run(name: str, inputs: int, seed: int, folder: Path, hang: int = 0) -> Counts:
    """Read so many damaged files in this process.

    Args:
        name: The reader.
        inputs: How many.
        seed: Of the damages.
        folder: An empty one; after a failure the damaged file is in it.
        hang: Seconds of the clock after which the process gets SIGALRM; 0 leaves that out.

    Raises:
        Failure: At the first.
    """
    reader, draw = READERS[name], random.Random(f"{name} {seed}")
    reader.make(folder)
    good = {path: path.read_bytes() for example in sorted(folder.iterdir())
            for path in sorted(example.glob(reader.damage)) if path.is_file()}  # fmt: skip
    paths, counts, slowest = list(good), collections.Counter(), 0.0
    examples = {path: folder / path.relative_to(folder).parts[0] for path in paths}
    for example in sorted(set(examples.values())):
        reader.read(example)
    limit = address_space() + MEMORY
    for n in range(inputs):
        path = draw.choice(paths)
        content = good[path]
        while content == good[path]:  # by chance nothing was damaged
            content = damaged(path.name, good[path], draw)
        path.write_bytes(content)
        with limited(limit):
            signal.alarm(hang)
            begin = time.process_time()
            try:
                found = reader.read(examples[path])
                outcome = "read" if reader.intact(path, found) else "READ WRONG"
            except (ValueError, FileNotFoundError) as error:
                outcome = told(error, examples[path])
            except BaseException as error:
                outcome = f"FAILED {type(error).__name__}: {error}"
            seconds = time.process_time() - begin
            signal.alarm(0)
        slowest = max(slowest, seconds)
        counts[outcome] += 1
        if outcome not in ("read", "refused") or seconds > SECONDS:
            raise Failure(f"input {n} of seed {seed}, {path}, {seconds:.2f} s: {outcome}")
        path.write_bytes(good[path])
    return Counts(counts["refused"], counts["read"], slowest)


def told(error: Exception, example: Path) -> str:
    """The outcome of an error: ``refused`` if its message is as it should be, else the fault."""
    text = str(error)
    if str(example) not in text or isinstance(error, UnicodeError):
        return f"UNNAMED FILE {type(error).__name__}: {text}"
    if "allocate" in text:  # an error of memory that somebody has taken for one of the file
        return f"MEMORY {text}"
    lines = 1 if "does not fit the config" not in text else 12
    return "refused" if len(text) <= LONGEST and text.count("\n") < lines else f"LONG MESSAGE {text[:LONGEST]}"


def address_space() -> int:
    """Bytes of this process's now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextmanager
def limited(memory: int) -> Iterator[None]:
    """No more address space than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--reader", nargs="+", choices=READERS, default=list(READERS), help="default: all of them")
    words.add_argument("--inputs", type=int, default=20_000, help="of each reader")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        (name,) = asked.reader
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
        sys.stdout.write(json.dumps(run(name, asked.inputs, asked.seed, Path(f"fuzz-{name}"), HANG)))
        return
    failures = 0
    for name in asked.reader:
        shutil.rmtree(f"fuzz-{name}", ignore_errors=True)
        begin = time.perf_counter()
        line = [sys.executable, __file__, "--child", "--reader", name, "--inputs", str(asked.inputs)]
        done = subprocess.run(
            [*line, "--seed", str(asked.seed)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        took = time.perf_counter() - begin
        if done.returncode:
            failures += 1
            Console().print(f"{name}: status {done.returncode}: {done.stderr[-2_000:]}", markup=False, highlight=False)
            continue
        shutil.rmtree(f"fuzz-{name}")
        refused, read, slowest = json.loads(done.stdout.splitlines()[-1])
        Console().print(
            f"{name}: {asked.inputs:,} inputs in {took:.0f} s: {refused:,} refused, {read:,} read; "
            f"slowest {slowest:.3f} s of CPU",
            highlight=False,
        )
    sys.exit(failures)


if __name__ == "__main__":
    main()
