"""The memory of one training step with 262,144 codewords: heads that map the whole codebook, on one CPU thread.

    python benchmarks/large_codebook.py [--gate] [--vectors 32768] [--codewords 262144]

Forward and backward, d = 256. Peaks are bytes of torch's allocator beyond what there was before, weights not
among them, gradients of weights among them.
"""

import argparse
import time

import torch
from measure import MIB, Claims, allocated, line, table
from quantizers import step

from vistok.quantizers import SimVQ, VQBridge

BAR = 4096  # MiB
HEADS = {"SimVQ": lambda k: SimVQ(k, 256), "VQBridge L/8": lambda k: VQBridge(k, 256, size="L", patch=8)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of a step with a very large codebook.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a bar is missed")
    parser.add_argument("--vectors", type=int, default=32768)
    parser.add_argument("--codewords", type=int, default=262144)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table(["head", "vectors", "codewords", "CPU s", "peak, MiB"])
    claims = Claims()
    for name, make in HEADS.items():
        torch.manual_seed(0)
        run = step(make(arguments.codewords), torch.randn(arguments.vectors // 1024, 256, 32, 32))
        began = time.process_time()
        peak = allocated(run) / MIB
        line([name, arguments.vectors, arguments.codewords, time.process_time() - began, f"{peak:,.0f}"])
        claims.at_most(f"{name}: peak, MiB", peak, BAR)
    claims.finish(arguments.gate)


if __name__ == "__main__":
    main()
