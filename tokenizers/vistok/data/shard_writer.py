"""Writer of webdataset tar shards."""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vistok.data.listings.folder_images import VALUES
from vistok.data.listings.listing import Listing, Opened
from vistok.files import atomic_write, encodable, sha256_of, sha256_of_lines, write_json
from vistok.images.decoding import open_image
from vistok.images.rgb import UnreadableImage
from vistok.images.values import NUMPY
from vistok.processes import locks
from vistok.processes.patience import PATIENCE, in_time
from vistok.terminal import say
from vistok.untrusted.bounded_json import MAX_LISTING, one_line, read_object

INDEX = "index.json"
EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}  # of Pillow's formats, where it is not the name
PARTIAL_INDEX = "index.json.partial"  # exists until all shards do


class Samples:
    """Listed images as numbered samples to write: ``KEY.EXT``, with ``KEY.cls``, the label in digits, and ``KEY.txt``.

    Image files stay as they are; arrays become PNG files. The index has the names of the labels.

    Args:
        images: The images, with the labels and captions to write.

    Raises:
        ValueError: There are files that readers of shards pass over, such as DICOM files.
    """

    def __init__(self, images: Listing):
        others = [name for name in images.names if images.single_files and name.lower().endswith(VALUES)]
        if others:
            raise ValueError(
                f"{images.about} has {len(others):,} files such as {encodable(others[0])}, which are not read from "
                "shards: data=folder reads them"
            )
        self.images = images
        self.keys = safe_keys(images.names)  # unique key of each sample
        self.about: dict[str, Any] = {"source": images.root.resolve().name, "kind": images.kind}  # for the index
        if images.classes is not None:
            self.about["classes"] = list(images.classes)

    def sizes(self) -> Iterator[int]:
        """Size of each sample's image in bytes."""
        for file in Opened(self.images):
            yield file.stat().st_size if isinstance(file, Path) else len(file.read())

    def members(self, i: int) -> dict[str, bytes]:
        """Contents of the i-th sample, by extension."""
        try:
            file, label, caption = self.images.open(i), self.images.label(i), self.images.caption(i)
            found = image_member(file.read()) if not isinstance(file, Path) else {}
        except UnreadableImage as error:
            raise UnreadableImage(f"{self.images.where(i)}: {error}") from error
        if isinstance(file, Path):
            found[file.suffix[1:].lower()] = file.read_bytes()
        if label is not None:
            found["cls"] = str(label).encode()
        if caption is not None:
            found["txt"] = caption.encode()
        return found


def image_member(data: bytes) -> dict[str, bytes]:
    """Bytes of an image file by its extension; those of an uncompressed array are compressed to PNG.

    Raises:
        UnreadableImage: They are no image that a shard can hold.
    """
    if data.startswith(NUMPY):
        raise UnreadableImage("it is an array that is not uint8 (h, w, 3); shards hold image files")
    try:
        with open_image(io.BytesIO(data)) as opened:
            if opened.format == "PPM":
                png = io.BytesIO()
                opened.save(png, "PNG")
                return {"png": png.getvalue()}
            return {EXTENSIONS.get(str(opened.format), str(opened.format).lower()): data}
    except UnreadableImage:
        raise
    except Exception as error:  # decoders of broken files raise anything
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


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
        stem = re.sub(r"[^\w/-]|^__", "_", file.lstrip("/").removesuffix(Path(file).suffix), flags=re.ASCII)
        key, n = stem, 1
        while key in taken:
            n += 1
            key = f"{stem}-{n}"
        taken.add(key)
        keys.append(key)
    return keys


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
        raise ValueError(f"{destination} exists already and has other files")
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
