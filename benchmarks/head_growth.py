"""Cost of a head's training step as its codebook grows, on one CPU thread: a table and a plot.

    python benchmarks/head_growth.py [--codewords K ...] [--samples S] [--picture FILE]

2,048 vectors a step: forward, backward and update, as in ``quantizers.py``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import MIB, allocated, line, milliseconds, table
from quantizers import step
from torch import Tensor, nn

from vistok.quantizers import SimVQ, VectorQuantizer

USUAL_MOST = 65536  # codewords of the usual form, which keeps three matrices of scores
HEADS = {
    "VQ, d = 8": lambda k: (VectorQuantizer(k, 8), 8),
    "VQ, d = 256": lambda k: (VectorQuantizer(k, 256), 256),
    "SimVQ, d = 256": lambda k: (SimVQ(k, 256), 256),
    "VQ with entropy, d = 8": lambda k: (VectorQuantizer(k, 8, entropy_temperature=1.0), 8),
}
ENTROPY_MOST = 65536  # its time grows as the rest, and is long


def usual_step(codebook: nn.Parameter, z: Tensor) -> Callable[[], Tensor]:
    """A training step as it is usually written, with all squared distances at once."""
    vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)

    def run() -> Tensor:
        x = vectors.clone().requires_grad_()
        distances = x.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * x @ codebook.T
        codes = distances.argmin(1)
        chosen = F.embedding(codes, codebook)
        loss = F.mse_loss(x, chosen.detach()) + F.mse_loss(chosen, x.detach())
        ((x + (chosen - x).detach()).square().mean() + loss).backward()
        codebook.grad = None
        return codes

    return run


def measure(codewords: list[int], samples: int) -> dict[str, list[tuple[int, float, float]]]:
    """Codewords, milliseconds and MiB at the peak, of each head."""
    found = {}
    for k in codewords:
        torch.manual_seed(0)
        runs = {}
        for name, make in HEADS.items():
            if "entropy" not in name or k <= ENTROPY_MOST:
                head, d = make(k)
                runs[name] = step(head, torch.randn(8, d, 16, 16))
        if k <= USUAL_MOST:
            runs["usual form, d = 8"] = usual_step(nn.Parameter(torch.randn(k, 8)), torch.randn(8, 8, 16, 16))
        spent = milliseconds(runs, samples)
        for name, run in runs.items():
            found.setdefault(name, []).append((k, spent[name], allocated(run) / MIB))
            line([name, k, *found[name][-1][1:]])
    return found


def draw(found: dict[str, list[tuple[int, float, float]]], file: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, points in found.items():
        codewords, times, peaks = zip(*points, strict=True)
        style = {"linestyle": "--", "color": "gray"} if "usual" in name else {}
        for axis, values in zip(axes, (times, peaks), strict=True):
            axis.loglog(codewords, values, marker="o", markersize=3, label=name, **style)
    for axis, label in zip(axes, ("CPU milliseconds a step", "MiB at the peak"), strict=True):
        axis.set_xlabel("codewords")
        axis.set_ylabel(label)
        axis.set_xticks(codes := sorted({k for points in found.values() for k, *_ in points}))
        axis.set_xticklabels([f"{k // 1024}k" for k in codes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how heads cost more as codebooks grow.")
    parser.add_argument("--codewords", type=int, nargs="+", default=[1024, 4096, 16384, 65536, 262144])
    parser.add_argument("--samples", type=int, default=1, help="of which the median is taken (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/head_cost.png"))
    return parser


if __name__ == "__main__":
    parsed = parser().parse_args()
    torch.set_num_threads(1)
    table(["head", "codewords", "ms", "peak, MiB"])
    draw(measure(parsed.codewords, parsed.samples), parsed.picture)
