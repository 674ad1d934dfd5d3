"""Whole heads in training (forward, backward, update) on one CPU thread: ours, vector-quantize-pytorch, the floor.

    python benchmarks/quantizers.py [--gate] [--codewords K] [--dims D ...] [--samples S]

2,048 vectors a step. The floor is that of ``nearest.py``; "of lookup" divides by our search alone, for SimVQ by the
search and its map's own products. The usual form is VQGAN's: |z|² + |c|² - 2 z·c, argmin, both losses.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import MIB, Claims, allocated, line, milliseconds, table
from nearest import floor, matching, naive
from torch import nn
from vector_quantize_pytorch import VectorQuantize

from vistok.kernels import nearest_code
from vistok.quantizers import Quantizer, SimVQ, VectorQuantizer

MOST_OF_LOOKUP = 1.6
TIMES_PEER = 25


def step(head: Quantizer, z: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A training step of a head of ours; returns its codes."""

    def run() -> torch.Tensor:
        quantized = head(z.clone().requires_grad_())
        (quantized.latent.square().mean() + sum(quantized.losses.values())).backward()
        head.zero_grad()
        head.update(quantized.stats or {})
        return quantized.codes.flatten()

    return run


def peer_step(head: VectorQuantize, z: torch.Tensor) -> Callable[[], torch.Tensor]:
    vectors = z.flatten(2).transpose(1, 2)

    def run() -> torch.Tensor:
        latent, codes, loss = head(vectors.clone().requires_grad_())
        (latent.square().mean() + loss.sum()).backward()
        head.zero_grad()
        return codes.flatten()

    return run


def usual_step(table: nn.Parameter, z: torch.Tensor) -> Callable[[], torch.Tensor]:
    vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)

    def run() -> torch.Tensor:
        x = vectors.clone().requires_grad_()
        codes = naive(x, table)
        chosen = F.embedding(codes, table)
        loss = F.mse_loss(x, chosen.detach()) + F.mse_loss(chosen, x.detach())
        ((x + (chosen - x).detach()).square().mean() + loss).backward()
        table.grad = None
        return codes

    return run


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    claims, k = Claims(), arguments.codewords
    table(["head", "d", "ms", "of floor", "of lookup", "peak, MiB", "exact"])
    for d in arguments.dims:
        torch.manual_seed(0)
        z = torch.randn(8, d, 16, 16)
        vectors, codebook = z.flatten(2).transpose(1, 2).flatten(0, 1).contiguous(), torch.randn(k, d)
        ours = {"VQ": VectorQuantizer(k, d), "VQ, EMA": VectorQuantizer(k, d, ema_decay=0.99), "SimVQ": SimVQ(k, d)}
        peer = VectorQuantize(dim=d, codebook_size=k)
        tables = {name: head.codebook().detach().clone() for name, head in ours.items()}
        steps = {name: step(head, z) for name, head in ours.items()}
        steps["usual form"] = usual_step(nn.Parameter(codebook.clone()), z)
        steps["vector-quantize-pytorch, EMA"] = peer_step(peer, z)
        exact = {name: matching(steps[name](), vectors, table) for name, table in tables.items()}
        exact["usual form"] = matching(naive(vectors, codebook), vectors, codebook)
        own_map = ours["SimVQ"].projection

        def products(own_map=own_map, basis=ours["SimVQ"].basis) -> None:
            output = own_map(basis)
            output.backward(output)
            own_map.zero_grad()

        bare = {
            "floor": lambda v=vectors, c=codebook: floor(v, c),
            "lookup": lambda v=vectors, c=codebook: nearest_code(v, c),
            "SimVQ's map": products,
        }
        spent = milliseconds(bare | steps, arguments.samples)
        for name in ("floor", "lookup", "SimVQ's map"):
            line([name, d, spent[name], spent[name] / spent["floor"], "–", "–", "–"])
        for name, run in steps.items():
            base = spent["lookup"] + (spent["SimVQ's map"] if name == "SimVQ" else 0.0)
            peak = allocated(run) / MIB
            line([name, d, spent[name], spent[name] / spent["floor"], spent[name] / base, peak, exact.get(name, "–")])
            if name in ours and k >= 16384:
                claims.at_most(f"{name} over its lookup, d={d}", spent[name] / base, MOST_OF_LOOKUP)
        if d == 8 and k == 16384:
            faster = spent["vector-quantize-pytorch, EMA"] / spent["VQ, EMA"]
            claims.at_least("times as fast as vector-quantize-pytorch's EMA VQ", faster, TIMES_PEER)
    claims.finish(arguments.gate)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure quantization heads in training on the CPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a bar is missed")
    parser.add_argument("--codewords", type=int, default=16384)
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 256])
    parser.add_argument("--samples", type=int, default=3, help="of which the median is taken (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
