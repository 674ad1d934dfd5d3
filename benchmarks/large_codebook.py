"""The memory of one training step with 262,144 codewords, on one CPU thread.

    python benchmarks/large_codebook.py [--gate] [--heads NAME ...] [--codewords 262144]

Forward and backward. Peaks are bytes of torch's allocator beyond what there was before, without weights. SimVQ and
VQBridge, which map the whole codebook, have gradients of weights among them. IBQ has not; it may need a tenth of n × k
floats. The growth of resident memory, in brackets, is that of a first step, without the same gradients.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from measure import MIB, Claims, allocated, line, table
from quantizers import learned, step

from vistok.quantizers import IBQ, Quantizer, SimVQ, VQBridge


class Case(NamedTuple):
    """A head by its number of codewords, and the most MiB of a step, by numbers of vectors and codewords."""

    make: Callable[[int], Quantizer]
    d: int
    vectors: int
    most: Callable[[int, int], float] = lambda n, k: 4096
    with_gradients: bool = True


def tenth(n: int, k: int) -> float:
    return 0.1 * n * k * 4 / MIB


CASES = {
    "SimVQ": Case(lambda k: SimVQ(k, 256), 256, 32768),
    "VQBridge L/8": Case(lambda k: VQBridge(k, 256, size="L", patch=8), 256, 32768),
    "IBQ, d = 8": Case(lambda k: IBQ(k, 8), 8, 16384, tenth, with_gradients=False),
    "IBQ, d = 256": Case(lambda k: IBQ(k, 256), 256, 16384, tenth, with_gradients=False),
}


def resident(name: str) -> int:
    """Bytes of resident memory: VmRSS, or VmHWM for the most so far."""
    return next(
        int(words[1]) * 1024
        for words in map(str.split, Path("/proc/self/status").read_text().splitlines())
        if words[0] == f"{name}:"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of a step with a very large codebook.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    parser.add_argument("--heads", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--codewords", type=int, default=262144)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table(["head", "vectors", "codewords", "CPU s", "peak, MiB (resident)"])
    claims, k = Claims(), arguments.codewords
    for name in arguments.heads:
        case = CASES[name]
        torch.manual_seed(0)
        head = case.make(k)
        run = step(head, torch.randn(case.vectors // 1024, case.d, 32, 32))
        gradients = 0 if case.with_gradients else learned(head)
        ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier heads have freed
        Path("/proc/self/clear_refs").write_text("5")  # forgets the most resident memory so far
        before, began = resident("VmRSS"), time.process_time()
        peak = (allocated(run) - gradients) / MIB
        grown = (resident("VmHWM") - before - gradients) / MIB
        line([name, case.vectors, k, time.process_time() - began, f"{peak:,.0f} ({grown:,.0f})"])
        claims.at_most(f"{name}: peak, MiB", max(peak, grown), case.most(case.vectors, k))
    claims.finish(arguments.gate)


if __name__ == "__main__":
    main()
