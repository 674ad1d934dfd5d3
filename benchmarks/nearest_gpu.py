"""The codeword search on a GPU: Triton's kernel against the usual form in chunks, and the hardware.

    python benchmarks/nearest_gpu.py [--gate]

Times are medians of CUDA events; the usual form takes as many vectors at a time as 4 GiB of scores hold. The roofline
counts three bfloat16 products of 2 n k d operations against the product of two large bfloat16 matrices, measured here.
"""

import argparse
import sys

import torch
from measure import MIB, Claims, gpu_milliseconds, line, table
from nearest import naive

from vistok.kernels import nearest_code, nearest_cpu

VECTORS, CODEWORDS = 65536, 262144
TARGETS = {8: 15, 32: 15, 256: 5}  # times as fast as the usual form


def product_rate(size: int = 8192) -> float:
    """Operations per second of a large bfloat16 product."""
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    return 2 * size**3 / (gpu_milliseconds(lambda: a @ a) / 1000)


def main(gate: bool) -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    from vistok.kernels import nearest_triton

    claims, rate = Claims(), product_rate()
    sys.stdout.write(f"{torch.cuda.get_device_name()}, bfloat16 product {rate / 1e12:.0f} TFLOP/s\n")
    table(["d", "ours, ms", "bfloat16 inputs, ms", "usual form, ms", "times as fast", "of roofline", "peak"])
    for d, target in TARGETS.items():
        torch.manual_seed(0)
        z, codebook = torch.randn(VECTORS, d, device="cuda"), torch.randn(CODEWORDS, d, device="cuda")
        rows = 2**30 // CODEWORDS
        ours = gpu_milliseconds(lambda z=z, c=codebook: nearest_code(z, c))
        halves = z.bfloat16(), codebook.bfloat16()
        low = gpu_milliseconds(lambda halves=halves: nearest_code(*halves))
        usual = gpu_milliseconds(lambda z=z, c=codebook, r=rows: torch.cat([naive(part, c) for part in z.split(r)]), 3)
        del halves
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        codes = nearest_code(z, codebook)
        own = 4 * (z.numel() + codebook.numel()) + 8 * len(codes)
        peak = (own + torch.cuda.max_memory_allocated() - before - 8 * len(codes)) / own
        roofline = 3 * 2 * VECTORS * CODEWORDS * d / rate / (ours / 1000)
        line([d, ours, low, usual, usual / ours, roofline, peak])
        claims.at_least(f"times as fast as the usual form, d={d}", usual / ours, target)
        claims.at_most(f"peak over inputs and outputs, d={d}", peak, 1.1)
        truth = nearest_cpu.reference(z[:64].cpu(), codebook.cpu())
        claims.at_least(f"share exact, d={d}", (codes[:64].cpu() == truth).double().mean().item(), 1)
    sys.stdout.write(f"{torch.cuda.max_memory_allocated() / MIB:.0f} MiB at most\n")
    for key, config in nearest_triton.tile_maxima.cache.items():
        sys.stdout.write(f"tuned for {key}: {config}\n")
    claims.finish(gate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the codeword search on a GPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    main(parser.parse_args().gate)
