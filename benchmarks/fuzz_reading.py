"""Damaged checkpoints by the ten thousand: each is read right, or refused with a ValueError that names the file.

    python benchmarks/fuzz_reading.py [--inputs 30000] [--seed 0]

Good files (torch's zip, its older stream, safetensors) are cut, overwritten, shuffled, spliced, and given other dtypes.
A zip's checksums would catch nearly all of it at the door, so every other damaged zip has its checksums made right
again. A child process reads them with ``--memory`` GiB of address space over what it begins with; one that takes
``--seconds`` or dies counts as a failure. Reading right: without a forged checksum, what was not refused is the former
contents or differs only where no format has a checksum (the older stream, safetensors).
"""

import argparse
import collections
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save

from vistok.export.reading import Contents, Stub, read_tensors

CONTENTS = {
    "state_dict": collections.OrderedDict(
        {f"encoder.{i}": torch.full((3, 4), float(i)) for i in range(4)} | {"half": torch.ones(5).bfloat16()[1:]}
    ),
    "score": np.float64(0.5),
    "args": argparse.Namespace(codebook_size=16),
    "step": 7,
}
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "F4", "X")
STORAGES = (b"FloatStorage", b"HalfStorage", b"LongStorage", b"ByteStorage", b"BoolStorage", b"QInt8Storage")


def seeds() -> dict[str, bytes]:
    """Good files by name."""
    made = {}
    for name, options in {
        "zip2": {},
        "zip4": {"pickle_protocol": 4},
        "older": {"_use_new_zipfile_serialization": False},
    }.items():
        stream = io.BytesIO()
        torch.save(CONTENTS, stream, **options)
        made[f"{name}.ckpt"] = stream.getvalue()
    made["weights.safetensors"] = save(dict(CONTENTS["state_dict"]))
    return made


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The name of a damage, and the content after it."""
    kind = draw.choice(["cut", "bits", "bytes", "shuffled", "spliced", "dtype", "number"])
    data = bytearray(content)
    if kind == "cut":
        return kind, bytes(data[: draw.randrange(len(data))])
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
            data[at : at + size] = draw.choice([0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1]).to_bytes(
                size, "little"
            )
        elif kind == "dtype":
            for former in STORAGES:
                if draw.random() < 0.5:
                    data = data.replace(former, draw.choice(STORAGES), 1)
            for former in DTYPES:
                if draw.random() < 0.5:
                    data = data.replace(f'"{former}"'.encode(), f'"{draw.choice(DTYPES)}"'.encode(), 1)
    return kind, bytes(data)


def forged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Members of a zip damaged, put in another order or dropped, and written as a zip whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    kind = "members in another order"
    if draw.random() < 0.2:
        draw.shuffle(members)
        del members[: draw.randint(0, 2)]
    else:
        i = 0 if draw.random() < 0.8 else draw.randrange(len(members))  # data.pkl comes first
        if members[i][1]:
            kind, changed = damaged(members[i][1], draw)
            members[i] = (members[i][0], changed)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, inner in members:
            archive.writestr(name, inner)
    return f"{kind}, checksums right", stream.getvalue()


def same(ours, theirs) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return type(ours) is dict and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    return type(ours) is Stub if isinstance(theirs, argparse.Namespace) else ours == theirs


def touch(tree) -> None:
    """Read every value, so that a tensor beyond its storage would crash."""
    if isinstance(tree, torch.Tensor):
        tree.to(torch.float64, copy=True) if not tree.is_complex() else tree.clone()
    elif type(tree) in (dict, list, tuple):
        for part in tree.values() if type(tree) is dict else tree:
            touch(part)


def child(inputs: int, seed: int, memory: float, seconds: int) -> None:
    """Read so many damaged files; exits with status 1 at the first failure, its input kept in ``failed.*``."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + int(memory * 2**30),) * 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process: a hang is a failure
    draw, good = random.Random(seed), seeds()
    counts = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for n in range(inputs):
            name = draw.choice(sorted(good))
            zipped = name.startswith("zip")
            forge = zipped and draw.random() < 0.5
            kind, content = (forged if forge else damaged)(good[name], draw)
            while content == good[name]:  # by chance nothing was damaged
                kind, content = (forged if forge else damaged)(good[name], draw)
            path = Path(folder) / f"{n}-{name}"
            path.write_bytes(content)
            signal.alarm(seconds)
            begin = time.perf_counter()
            try:
                contents: Contents = read_tensors(path)
                touch(contents.tree)
                expected = not zipped or forge or same(contents.tree, CONTENTS)
                outcome = "read" if expected else "READ WRONG"
            except ValueError as error:
                outcome = "refused" if str(path) in str(error) else f"UNNAMED FILE {error}"
            except BaseException as error:
                outcome = f"FAILED {type(error).__name__}: {error}"
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - begin)
            counts[outcome] += 1
            if outcome not in ("read", "refused"):
                Path(f"failed-{name}").write_bytes(content)
                sys.exit(f"input {n} of seed {seed}, {kind}: {outcome}")
            path.unlink()
    sys.stdout.write(f"{counts['refused']} {counts['read']} {slowest:.3f}\n")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--inputs", type=int, default=30_000)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--memory", type=float, default=1.0, help="GiB")
    words.add_argument("--seconds", type=int, default=20, help="for one input")
    words.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        child(asked.inputs, asked.seed, asked.memory, asked.seconds)
        return
    begin = time.perf_counter()
    line = [sys.executable, __file__, "--child", *sys.argv[1:]]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"status {done.returncode}: {done.stderr[-2000:]}")
    refused, read, slowest = done.stdout.split()
    Console().print(f"{asked.inputs:,} inputs in {took:.0f} s: {refused} refused, {read} read; slowest {slowest} s")


if __name__ == "__main__":
    main()
