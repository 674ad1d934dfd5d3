"""CPU time and memory of reading a published checkpoint of LlamaGen's VQ-16 size, as multiples of torch.load's and of
the file's size.

    python benchmarks/reading.py [--times 5]

A file of random weights (72 million, 288 MB) is written in three formats to a temporary folder. Each reading is a
process of its own, so that its largest resident memory is known; imports and the file's pages in the cache of the
system are there before.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import safetensors.torch
import torch
from torch import nn

from vistok import Tokenizer, load
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats.importers import from_llamagen
from vistok.formats.importers.key_map import to_theirs
from vistok.quantizers import VectorQuantizer

READERS = ("torch.load", "vistok.load")
FILES = ("vq.pt", "older.pt", "vq.safetensors")


def write(folder: Path) -> None:
    """Writes the weights of LlamaGen's VQ-16 as ``torch.save`` does, as it did before, and as safetensors."""
    torch.manual_seed(0)
    maps = nn.Conv2d(256, 8, 1), nn.Conv2d(8, 256, 1)
    model = Tokenizer(CNNEncoder(), VectorQuantizer(16_384, 8, cosine=True), CNNDecoder(), *maps)
    theirs = {name: own.contiguous() for name, own in to_theirs(from_llamagen.RULES, model.state_dict(), 5).items()}
    torch.save({"model": theirs}, folder / FILES[0])
    torch.save({"model": theirs}, folder / FILES[1], _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(theirs, folder / FILES[2])


def read(reader: str, file: Path) -> dict[str, float]:
    """CPU seconds of a reading, and MiB by which it raises the largest resident memory of this process."""
    with file.open("rb") as opened:
        while opened.read(2**24):  # into the cache
            pass
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far becomes what there is
    before = largest()
    began = time.process_time()
    if reader == "vistok.load":
        content: object = load(file)
    elif file.suffix == ".safetensors":
        content = safetensors.torch.load_file(file)
    else:
        content = torch.load(file, map_location="cpu", weights_only=True)
    seconds = time.process_time() - began
    assert content
    return {"seconds": seconds, "mib": largest() - before}


def largest() -> float:
    """The most MiB of resident memory that this process has had, files that are mapped included."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--times", type=int, default=5, help="processes of each reading; the median counts")
    words.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        sys.stdout.write(json.dumps(read(asked.child[0], Path(asked.child[1]))))
        return
    measure.table(["file", "reader", "CPU s", "of torch's", "MiB", "of the file's size"])
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for name in FILES:
            file, first = Path(folder) / name, 0.0
            for reader in READERS:
                line = [sys.executable, __file__, "--child", reader, str(file)]
                runs = [json.loads(subprocess.run(line, capture_output=True, check=True).stdout.splitlines()[-1])
                        for _ in range(asked.times)]  # fmt: skip
                seconds, mib = (statistics.median(run[key] for run in runs) for key in ("seconds", "mib"))
                first = first or seconds
                size = file.stat().st_size / 2**20
                measure.line([name, reader, seconds, seconds / first, mib, mib / size])


if __name__ == "__main__":
    main()
