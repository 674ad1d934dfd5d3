"""Writer of webdataset tar shards."""

import io
import re
import struct
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vistok.data.folder_listing import list_images, nothing_found
from vistok.data.folder_splits import split_of
from vistok.files import atomic_write, sha256_of, sha256_of_lines, write_json
from vistok.processes import locks
from vistok.processes.patience import PATIENCE, in_time
from vistok.terminal import say
from vistok.untrusted.bounded_json import MAX_LISTING, one_line, read_object

INDEX = "index.json"
PARTIAL_INDEX = "index.json.partial"  # exists until all shards do


class Samples(ABC):
    """Numbered samples to write."""

    keys: list[str]  # unique key of each sample
    about: dict[str, Any]  # facts for the index

    @abstractmethod
    def sizes(self) -> Sequence[int]:
        """Size of each sample in bytes."""

    @abstractmethod
    def members(self, i: int) -> dict[str, bytes]:
        """Contents of the i-th sample, by extension."""


class FolderSamples(Samples):
    """All images below a folder; keys are relative paths with unsupported characters replaced."""

    def __init__(self, root: Path):
        if split := split_of(root):
            raise ValueError(f"{root} has the splits {split.names}: name one of them")
        self.root, self.files = root, list_images(root)
        if not self.files:
            raise ValueError(nothing_found(root))
        self.keys, self.about = safe_keys(self.files), {"source": root.resolve().name, "kind": "folder"}

    def sizes(self) -> list[int]:
        return [(self.root / name).stat().st_size for name in self.files]

    def members(self, i: int) -> dict[str, bytes]:
        path = self.root / self.files[i]
        return {path.suffix[1:].lower(): path.read_bytes()}


class ArraySamples(Samples):
    """An ``.npz`` file: ``data`` (uint8, all JPEG files concatenated), ``offsets`` (n + 1), ``labels``, ``classes``.

    A sample is ``KEY.jpg`` and ``KEY.cls``, the label in digits. The index has the names of the labels.
    """

    def __init__(self, path: Path):
        try:
            self.data, self.offsets, self.labels, classes = (
                array_in(path, name) for name in ("data", "offsets", "labels", "classes")
            )
        except Exception as error:  # no archive, a missing array, or one larger than memory
            raise ValueError(f"{path} does not hold data, offsets, labels and classes: {error!r}") from error
        for name, array in (("offsets", self.offsets), ("labels", self.labels)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                kind = f"{array.dtype} of shape {array.shape}"
                raise ValueError(f"{path}: {name} must be a row of integers, not {kind}")
        count = len(self.offsets) - 1
        lengths = np.diff(self.offsets.astype(np.int64))
        if self.data.dtype != np.uint8 or self.data.ndim != 1:
            raise ValueError(f"{path}: data must be bytes in a row, not {self.data.dtype} of shape {self.data.shape}")
        if count < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.data) or (lengths < 0).any():
            raise ValueError(f"{path}: offsets must rise from 0 to the {len(self.data):,} bytes of data")
        if len(self.labels) != count:
            raise ValueError(f"{path}: {len(self.labels):,} labels for {count:,} images")
        self.keys = [f"{i:08d}" for i in range(count)]
        self.about = {"source": path.name, "kind": "npz", "classes": list(map(str, classes.ravel()))}

    def sizes(self) -> list[int]:
        return np.diff(self.offsets.astype(np.int64)).tolist()

    def members(self, i: int) -> dict[str, bytes]:
        image = self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()
        return {"jpg": image, "cls": str(int(self.labels[i])).encode()}


def convert(
    source: Samples,
    destination: Path,
    per_shard: int,
    shuffle_seed: int | None,
    console: Console,
    timeout: float = PATIENCE,
    take_over: bool = False,
) -> None:
    """Writes the shards that are still missing, then the index.

    Args:
        source: The samples.
        destination: Folder of the shards.
        per_shard: Number of samples in a shard; the last shard may have fewer.
        shuffle_seed: Seed of the order of samples; None keeps the source's order.
        console: Console for progress.
        timeout: Seconds to wait for a sample before an error.
        take_over: True takes over the folder of a process on another machine that no longer responds.

    Raises:
        ValueError: The destination has other content, or is in use.
    """
    if per_shard < 1:
        raise ValueError(f"per-shard={per_shard} must be at least 1")
    count = len(source.keys)
    order = range(count)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(count).tolist()
    plan = source.about | {
        "images": count,
        "per_shard": per_shard,
        "shuffle_seed": shuffle_seed,
        "sha256_of_keys_and_sizes": sha256_of_lines(_keys_and_sizes(source)),
    }
    with locks.held(destination / locks.NAME, str(destination), take_over, "--take-over"):
        known = _begin(destination, plan)
        shards = []
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        ) as bar:
            task = bar.add_task("images", total=count)
            for number, first in enumerate(range(0, count, per_shard)):
                path = destination / f"shard-{number:06d}.tar"
                chosen = order[first : first + per_shard]
                sha256 = sha256_of(path) if path.exists() else None
                if sha256 is None or known.get(path.name, sha256) != sha256:
                    write_shard(path, source, chosen, timeout)
                    sha256 = sha256_of(path)
                shards.append({"name": path.name, "images": len(chosen), "sha256": sha256})
                bar.advance(task, len(chosen))
        write_json(plan | {"shards": shards}, destination / INDEX)
        (destination / PARTIAL_INDEX).unlink(missing_ok=True)
        say(f"{count:,} images in {len(shards):,} shards: {destination}", console=console)


def write_shard(path: Path, source: Samples, chosen: Sequence[int], timeout: float = PATIENCE) -> None:
    """Writes a tar of some samples atomically; the same samples give the same bytes."""
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for i, members in zip(chosen, in_time(map(source.members, chosen), timeout), strict=False):
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{source.keys[i]}.{extension}")  # without owner and time
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def safe_keys(files: Sequence[str]) -> list[str]:
    """Unique key for each relative path, in ASCII and without dots, which would end the key."""
    keys, taken = [], set()
    for file in files:
        stem = re.sub(r"[^\w/-]|^__", "_", file[: -len(Path(file).suffix)], flags=re.ASCII)
        key, n = stem, 1
        while key in taken:
            n += 1
            key = f"{stem}-{n}"
        taken.add(key)
        keys.append(key)
    return keys


def array_in(path: Path, name: str) -> np.ndarray:
    """Array of an ``.npz`` file, memory-mapped if it is not compressed."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            major, _ = np.lib.format.read_magic(member)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(member)
            length = member.tell()
    if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or not np.prod(shape):
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the name and of the extra field before the contents
        before = sum(struct.unpack("<HH", file.read(4)))
    start = info.header_offset + 30 + before + length
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _begin(destination: Path, plan: dict[str, Any]) -> dict[str, str]:
    """Starts in a new folder, or checks that the folder belongs to the same conversion.

    Returns:
        SHA-256 of each shard by name, if all were written before.
    """
    for name in (INDEX, PARTIAL_INDEX):
        if (destination / name).is_file():
            former = _read_index(destination / name)
            differing = [key for key in plan if former.get(key) != plan[key]]
            if differing:
                there = ", ".join(f"{key}={shorten(str(former.get(key)), 80)}" for key in differing)
                here = ", ".join(f"{key}={shorten(str(plan[key]), 80)}" for key in differing)
                raise ValueError(f"{destination} holds another conversion: {there}; here {here}")
            return {shard["name"]: shard["sha256"] for shard in former["shards"]}
    if [path for path in destination.iterdir() if path.suffix != ".partial" and path.name != locks.NAME]:
        raise ValueError(f"{destination} exists already and holds something else")
    write_json(plan, destination / PARTIAL_INDEX)
    return {}


def _read_index(path: Path) -> dict[str, Any]:
    """Reads an index that ``_begin`` or ``convert`` wrote."""
    try:
        content = read_object(path, MAX_LISTING)
        shards = [{"name": str(own["name"]), "sha256": own["sha256"]} for own in content.get("shards", [])]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not an index of shards: {one_line(repr(error))}") from error
    return content | {"shards": shards}


def _keys_and_sizes(source: Samples) -> Iterator[str]:
    for key, size in zip(source.keys, source.sizes(), strict=True):
        yield f"{key}\t{size}"
    yield ""
