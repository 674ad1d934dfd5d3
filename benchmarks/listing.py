"""CPU time and memory of listing a folder: on files against torchvision's ImageFolder, and on generated names for each
of two processes of a node.

    python benchmarks/listing.py [--files 100000] [--names 1000000 10000000]

Empty files are made in a temporary folder, 1,000 to a folder; the listing is read from the cache of the system. Names
are generated where a listing would read the storage; the second process maps what the first one wrote. Memory is what
resident memory grows by after the imports: of the process alone, and pages of the mapped file, which all processes of a
node share and the system may take back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import measure
import numpy as np

FOLDER, ACCESSES = 1000, 100_000  # files in a folder; images that are looked up


def on_files(count: int) -> None:
    """Prints CPU time for each file of both listings, and of torchvision's."""
    from torchvision.datasets import ImageFolder

    from vistok.data.folder_listing import list_images
    from vistok.data.kept_listing import kept_listing

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i in range(count):
            path = root / f"n{i // FOLDER:08d}" / f"{i * 7919 % 1_000_003:07d}.JPEG"
            if i % FOLDER == 0:
                path.parent.mkdir()
            path.touch()
        ways: dict[str, Callable[[], object]] = {
            "ImageFolder": lambda: ImageFolder(name),
            "list_images": lambda: list_images(root),
            "kept_listing": lambda: kept_listing(root),
        }
        first = 0.0
        measure.table(["listing", "µs of CPU a file", "of torchvision's"])
        for way, run in ways.items():
            seconds = min(cpu_seconds(run) for _ in range(7))
            first = first or seconds
            measure.line([way, seconds / count * 1e6, seconds / first])


def generated(count: int) -> Iterator[list[str]]:
    """Names in blocks, not sorted."""
    for first in range(0, count, FOLDER):
        folder = f"n{first // FOLDER * 7919 % 1_000_003:08d}"
        yield [f"{folder}/{folder}_{i * 7919 % 1_000_003:07d}.JPEG" for i in range(first, min(first + FOLDER, count))]


def rank(count: int) -> dict[str, float]:
    """Costs of one process: until the data is built, and of looking images up."""
    from vistok.data import folder, kept_listing

    kept_listing.image_blocks = lambda *_: generated(count)
    before, began = resident(), time.process_time()
    data = folder(os.environ["ROOT"], 256, 8)
    seconds, built = time.process_time() - began, resident()
    chosen = np.random.default_rng(0).integers(len(data.train), size=ACCESSES).tolist()
    began = time.process_time()
    for i in chosen:
        assert data.train.listing.names[i]
    found = {"seconds": seconds, "us": (time.process_time() - began) / ACCESSES * 1e6}
    for name, state in (("built", built), ("used", resident())):
        found |= {f"{name} {kind}": own - before[kind] for kind, own in state.items()}
    return found


def resident() -> dict[str, float]:
    """MiB of resident memory by kind, and the most so far."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 2**10 for name in ("RssAnon", "RssFile", "VmHWM")}


def cpu_seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def on_names(count: int) -> None:
    """Prints the costs of two processes of a node; the first one lives until the second is done."""
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        for local in (0, 1):
            child = subprocess.Popen(
                [sys.executable, __file__, "--child", str(count)],
                env={**os.environ, "TORCHELASTIC_RUN_ID": root, "LOCAL_RANK": str(local), "ROOT": root},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(child.communicate, "end")
            found = json.loads(child.stdout.readline())
            measure.line([f"{count:,}", local, *found.values()])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--files", type=int, default=100_000, help="files that are made and listed")
    words.add_argument("--names", type=int, nargs="*", default=[1_000_000, 10_000_000], help="names that are generated")
    words.add_argument("--child", type=int, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        print(json.dumps(rank(asked.child)), flush=True)
        sys.stdin.read()
        return
    on_files(asked.files)
    measure.table(
        ["names", "process", "CPU s to build the data", "µs to look an image up", "MiB alone", "MiB of the file",
         "most MiB", "MiB alone after look-ups", "MiB of the file", "most MiB"]
    )  # fmt: skip
    for count in asked.names:
        on_names(count)


if __name__ == "__main__":
    main()
