"""Torch files from unknown sources, read as data: locations of their tensors and pickles."""

import io
import mmap
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok.untrusted.bounded_json import one_line
from vistok.untrusted.file_bytes import MAX_READ, FileBytes
from vistok.untrusted.file_kinds import AGAIN, HEAD, archive_kind, kind
from vistok.untrusted.safe_pickle import MAX_NAME, MAX_PICKLE, Machine, checked_tree
from vistok.untrusted.tensor_files import begins_as_safetensors, read_safetensors

MAX_MEMBERS = 100_000
MAX_DIRECTORY = 4 * 2**20  # largest list of members of a zip file in bytes
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PROTOCOL = 5  # of pickles


class Contents(NamedTuple):
    """Contents of a checkpoint."""

    tree: Any  # nested dicts, lists and tuples of tensors, numbers, strings, bytes, dtypes, None and stubs
    stubs: tuple[str, ...]  # sorted names of all objects that were not created


def read_tensors(path: str | Path) -> Contents:
    """Reads a published checkpoint: safetensors, or a file of ``torch.save`` as a zip file or the older stream.

    Tensors of safetensors, and of files of more than ``file_bytes.MAX_READ`` bytes, are mapped from the file, copy on
    write, so that it must not change while they are used; others are in memory. Tensors that share a storage in the
    file share it in memory. ``requires_grad``, hooks, devices and attributes are dropped.

    Args:
        path: The file. Its first bytes tell its format, not its name.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, of another format, or needs more than a checkpoint does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    size = path.stat().st_size
    if size < 10:
        raise ValueError(f"{path} is not a checkpoint: it has {size} bytes; {AGAIN}")
    try:
        with path.open("rb", buffering=0) as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if begins_as_safetensors(data[:9], size):  # its size may begin like a pickle
                return Contents(read_safetensors(path).tensors, ())
            if data[:4] == b"PK\x03\x04":
                return _read_zip(path, FileBytes(file, data))
            if data[:1] == b"\x80" and data[1] <= MAX_PROTOCOL:
                return _read_legacy(FileBytes(file, data))
        found = kind(path.name, data[:HEAD], data[-HEAD:])
        if found is not None:
            raise ValueError(f"it is {found}")
        if path.suffix == ".safetensors":
            return Contents(read_safetensors(path).tensors, ())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {one_line(error)}") from error
    raise ValueError(
        f"{path} cannot be read as a checkpoint: it neither starts like torch's files nor is named .safetensors"
    )


def bytes_in_memory(path: Path) -> int:
    """Bytes of memory, not mapped from the file, that the tensors of ``read_tensors`` take together; 0 if mapped."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
    torch_file = head[:4] == b"PK\x03\x04" or head[:1] == b"\x80"
    return size if torch_file and size <= MAX_READ and not begins_as_safetensors(head, size) else 0


def _read_zip(path: Path, file: FileBytes) -> Contents:
    data, members = file.data, _members(path, file.data)
    pickles = [name for name in members if PurePosixPath(name).name == "data.pkl" and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError(f"a zip file with {len(pickles)} data.pkl is not one that torch.save wrote")
    root = pickles[0].partition("/")[0]
    unread = {name for name in members if name.startswith(f"{root}/data/")}
    for name in members.keys() - unread:
        _check(name, file.checksum(*members[name][:2]), members[name].crc)
    start, size, _ = members[pickles[0]]
    if size > MAX_PICKLE:
        raise ValueError(f"its pickle has {size:,} bytes, more than {MAX_PICKLE:,}")
    if f"{root}/byteorder" in members:
        first, length, _ = members[f"{root}/byteorder"]
        if data[first : first + min(length, 16)] != b"little":
            raise ValueError("it was not written by a little-endian machine")

    def storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        name = f"{root}/data/{key}"
        if name not in members:
            raise ValueError(f"the storage {key!r} is not in the file")
        first, length, crc = members[name]
        if length != numel * dtype.itemsize:
            raise ValueError(f"the storage {key!r} claims {numel} x {dtype}, its member has {length:,} bytes")
        _check(name, file.read(first, length), crc)
        unread.discard(name)
        return _tensor(file, first, dtype, numel)

    machine = Machine(storage)
    tree = machine.run(io.BytesIO(data[start : start + size]))
    for name in unread:
        _check(name, file.checksum(*members[name][:2]), members[name].crc)
    return Contents(checked_tree(tree), machine.names())


class _Member(NamedTuple):
    """Location of a member of a zip file."""

    start: int  # first byte
    size: int  # bytes
    crc: int  # checksum that the file claims


def _check(name: str, checksum: int, expected: int) -> None:
    if checksum != expected:
        raise ValueError(f"the member {name[:MAX_NAME]!r} is not what was written: its checksum differs")


def _members(path: Path, data: mmap.mmap) -> dict[str, _Member]:
    """All members, which must be uncompressed and must not overlap; their checksums are not compared here."""
    check_directory_size(data)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError, OSError) as error:
        raise ValueError(f"a damaged zip file: {error}") from error
    if len(infos) > MAX_MEMBERS:
        raise ValueError(f"it has {len(infos):,} members, more than {MAX_MEMBERS:,}")
    found = archive_kind([info.filename for info in infos])
    members, spans = {}, []
    for info in infos:
        name = info.filename
        if name.startswith("/") or ".." in name.split("/") or "\0" in info.orig_filename:
            raise ValueError(f"the member name {name[:MAX_NAME]!r} is not safe")
        if name in members:
            raise ValueError(f"the member {name[:MAX_NAME]!r} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            compressed = f"the member {name[:MAX_NAME]!r} is compressed or encrypted, which torch.save never does"
            raise ValueError(f"it is {found}" if found else compressed)
        at = info.header_offset
        head = data[at : at + 30] if 0 <= at <= len(data) - 30 else b""
        if head[:4] != b"PK\x03\x04":
            raise ValueError(f"the member {name[:MAX_NAME]!r} has no header where it should be")
        start = at + 30 + sum(struct.unpack("<HH", head[26:30]))
        if start + info.file_size > len(data):
            raise ValueError(f"the member {name[:MAX_NAME]!r} claims {info.file_size:,} bytes, beyond the file's end")
        spans.append((at, start + info.file_size))
        members[name] = _Member(start, info.file_size, info.CRC)
    spans.sort()
    if any(end > begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False)):
        raise ValueError("its members overlap")
    if found is not None:
        raise ValueError(f"it is {found}")
    return members


def check_directory_size(data: mmap.mmap) -> None:
    """Bounds the list of members, which ``zipfile`` reads at once, with an object for each member."""
    tail_at = max(0, len(data) - 2**16 - 22)
    tail = data[tail_at:]
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(tail):
        raise ValueError(f"a truncated zip file, which has no list of members: {AGAIN}")
    sizes = [struct.unpack_from("<I", tail, end + 12)[0]]
    locator = tail_at + end - 20
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        (at,) = struct.unpack("<Q", data[locator + 8 : locator + 16])
        sizes = [struct.unpack("<Q", data[near + 40 : near + 48])[0]
                 for near in {at, locator - 56} if 0 <= near <= len(data) - 56]  # fmt: skip
    if any(size > min(MAX_DIRECTORY, len(data)) for size in sizes):
        raise ValueError(f"its list of members claims {max(sizes):,} bytes")


def _tensor(file: FileBytes, first: int, dtype: torch.dtype, numel: int) -> Tensor:
    """``numel`` values from byte ``first`` on, which have been read; the caller has checked that they exist."""
    if not numel:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(file.memory, dtype=torch.uint8, count=numel * dtype.itemsize, offset=first)
    if first % dtype.itemsize:
        flat = flat.clone()
    return flat.view(dtype)


def _read_legacy(file: FileBytes) -> Contents:
    data = file.data
    stream = io.BytesIO(data[: MAX_PICKLE + 1024])
    if Machine(_no_storage).run(stream) != LEGACY_MAGIC:
        raise ValueError("it is a pickle that torch.save did not write")
    protocol, system = Machine(_no_storage).run(stream), Machine(_no_storage).run(stream)
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it is of an unknown version of torch's format, or not of a little-endian machine")
    begin, found = stream.tell(), {}

    def note(key: str, dtype: torch.dtype, numel: int) -> Tensor:  # locations of storages follow the pickle
        found[key] = (dtype, numel)
        return torch.empty(numel, dtype=dtype, device="meta")

    Machine(note).run(stream)
    keys = Machine(_no_storage).run(stream)
    places, at = {}, stream.tell()
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or set(keys) != set(found):
        raise ValueError("its list of storages is not that of its tensors")
    for key in keys:
        dtype, numel = found[key]
        claimed = int.from_bytes(data[at : at + 8], "little", signed=True)
        if key in places or claimed != numel or at + 8 + numel * dtype.itemsize > len(data):
            raise ValueError(f"the storage {key[:MAX_NAME]!r} claims {numel} x {dtype}, the file holds something else")
        places[key] = at + 8
        at += 8 + numel * dtype.itemsize
    if at != len(data):
        raise ValueError(f"{len(data) - at:,} bytes follow its last storage")

    def storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        file.read(places[key], numel * dtype.itemsize)
        return _tensor(file, places[key], dtype, numel)

    machine = Machine(storage)
    stream.seek(begin)
    return Contents(checked_tree(machine.run(stream)), machine.names())


def _no_storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
    raise ValueError(f"a storage {key[:MAX_NAME]!r} where none can be")
