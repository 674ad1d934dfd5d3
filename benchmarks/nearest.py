"""The codeword search on one CPU thread: against the floor, the usual form, and the truth.

    python benchmarks/nearest.py [--gate] [--codewords K ...] [--dims D ...] [--samples S] [--threads T]

The floor is the product of all vectors with all codewords, in blocks, into one buffer that is used again and again, and
nothing else. The usual form is |z|² + |c|² - 2 z·c and argmin. Peak is what torch's allocator hands out. With --gate
the status is 1 if a target is not reached.
"""

import argparse

import torch
from measure import MIB, Claims, allocated, line, milliseconds, table

from vistok.kernels import nearest_code, nearest_cpu

VECTORS = 2048
FLOOR = {8: 2.2, 32: 1.75, 256: 1.25}  # times the floor, from LARGE codewords on
NAIVE = {8: 0.12, 256: 0.55}  # times the usual form
LARGE = 16384
NAIVE_MOST = 65536  # codewords; more would take 6 GiB


def floor(z: torch.Tensor, codebook: torch.Tensor, size: int = 512) -> None:
    buffer = torch.empty(size, min(size, len(codebook)))
    for rows in z.split(size):
        for block in codebook.split(size):
            torch.mm(rows, block.T, out=buffer[: len(rows), : len(block)])


def naive(z: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    squares = z.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return (squares - 2 * torch.einsum("nd,kd->nk", z, codebook)).argmin(1)


def matching(codes: torch.Tensor, z: torch.Tensor, codebook: torch.Tensor) -> float:
    """Share of the first 64 vectors whose code is the nearest in float64."""
    truth = nearest_cpu.reference(z[:64], codebook)
    return (codes[:64] == truth).double().mean().item()


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    claims = Claims()
    table(["codewords", "d", "floor, ms", "ours, ms", "of floor", "of usual form", "peak, MiB", "usual, MiB",
           "exact", "usual exact"])  # fmt: skip
    for k in arguments.codewords:
        for d in arguments.dims:
            torch.manual_seed(0)
            z, codebook = torch.randn(VECTORS, d), torch.empty(k, d).uniform_(-1 / k, 1 / k)
            runs = {
                "floor": lambda z=z, c=codebook: floor(z, c),
                "ours": lambda z=z, c=codebook: nearest_code(z, c),
                "usual": lambda z=z, c=codebook: naive(z, c),
            }
            if k > NAIVE_MOST:
                runs.pop("usual")
            spent = milliseconds(runs, arguments.samples)
            of_floor, of_usual = spent["ours"] / spent["floor"], spent["ours"] / spent.get("usual", float("nan"))
            peaks = {name: allocated(run) / MIB for name, run in runs.items()}
            right = {name: matching(runs[name](), z, codebook) for name in runs if name != "floor"}
            usual = [peaks.get("usual", "–"), right["ours"], right.get("usual", "–")]
            line([k, d, spent["floor"], spent["ours"], of_floor, of_usual, peaks["ours"], *usual])
            cell = f"k={k}, d={d}"
            if k >= LARGE and d in FLOOR:
                claims.at_most(f"times the floor, {cell}", of_floor, FLOOR[d])
            if k in (LARGE, NAIVE_MOST) and d in NAIVE:
                claims.at_most(f"times the usual form, {cell}", of_usual, NAIVE[d])
            claims.at_most(f"peak MiB, {cell}", peaks["ours"], 16 + VECTORS * 512 * 4 / MIB)
            claims.at_least(f"share exact, {cell}", right["ours"], 1)
    claims.finish(arguments.gate)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the codeword search on the CPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    parser.add_argument("--codewords", type=int, nargs="+", default=[1024, 16384, 65536, 262144])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 32, 256])
    parser.add_argument("--samples", type=int, default=3, help="of which the median is taken (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
