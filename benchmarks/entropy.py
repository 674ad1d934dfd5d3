"""The streamed entropy loss against the dense one, forward and backward, on one CPU thread: time, peak, equality.

    python benchmarks/entropy.py [--gate] [--codewords K] [--dims D ...] [--samples S]

2,048 vectors. Peak includes the gradients; the target, a tenth of an n × k matrix, does not count those of the
codebook, which are as large as it is.
"""

import argparse
from collections.abc import Callable

import torch
from measure import MIB, Claims, allocated, line, milliseconds, table

from vistok.quantizers import code_statistics

VECTORS, TEMPERATURE = 2048, 1.0
TENTH = 0.1  # of an n × k matrix


def dense(z: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The loss as MaskGIT's and LlamaGen's code have it."""
    vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)
    squares = vectors.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return dense_of_scores((2 * torch.einsum("nd,kd->nk", vectors, codebook) - squares) / TEMPERATURE)


def dense_of_scores(scores: torch.Tensor) -> torch.Tensor:
    log_p = scores.log_softmax(1)
    mean = log_p.exp().mean(0)
    return -(log_p.exp() * log_p).sum(1).mean() + (mean * (mean + 1e-5).log()).sum()


def streamed(z: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return code_statistics.entropy(z, codebook, TEMPERATURE)


def difference(k: int, d: int) -> float:
    """The largest relative difference in float64, of loss and gradients, for 256 vectors."""
    inputs = [torch.randn(1, d, 16, 16).double().requires_grad_(), torch.randn(k, d).double().requires_grad_()]
    results = []
    for loss in (streamed(*inputs), dense(*inputs)):
        results.append([loss, *torch.autograd.grad(loss, inputs)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    claims, k = Claims(), arguments.codewords
    table(["d", "streamed, ms", "dense, ms", "time", "streamed, MiB", "dense, MiB", "of n × k", "difference"])
    for d in arguments.dims:
        torch.manual_seed(0)
        inputs = [torch.randn(8, d, 16, 16, requires_grad=True), torch.randn(k, d, requires_grad=True)]

        def learn(loss: Callable, inputs=inputs) -> Callable[[], object]:
            return lambda: torch.autograd.grad(loss(*inputs), inputs)

        runs = {"streamed": learn(streamed), "dense": learn(dense)}
        spent = milliseconds(runs, arguments.samples)
        peaks = {name: allocated(run) for name, run in runs.items()}
        share = (peaks["streamed"] - inputs[1].nbytes) / (4 * VECTORS * k)
        apart = difference(min(k, 4096), d)
        line([d, spent["streamed"], spent["dense"], spent["streamed"] / spent["dense"], peaks["streamed"] / MIB,
              peaks["dense"] / MIB, share, f"{apart:.1e}"])  # fmt: skip
        claims.at_most(f"share of an n × k matrix, d={d}", share, TENTH)
        claims.at_most(f"relative difference in float64, d={d}", apart, 1e-9)
    claims.finish(arguments.gate)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the streamed entropy loss on the CPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    parser.add_argument("--codewords", type=int, default=16384)
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 256])
    parser.add_argument("--samples", type=int, default=2, help="of which the median is taken (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
