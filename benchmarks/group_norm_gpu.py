"""Fused group norm and SiLU on a GPU against torch's own: times of forward and backward pass, and their results.

    python benchmarks/group_norm_gpu.py [--batch 16]

Activations are bfloat16 and channels last, with the shapes of LlamaGen's VQ-16 at 256 pixels. Torch's own is what
autocast does: group norm and SiLU in float32, and a cast. Times are medians of CUDA events. The last columns compare
results and gradients of both with float64, as the largest difference in units of the largest value.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import gpu_milliseconds, line, table
from torch import Tensor, nn

from vistok.kernels.group_norm import norm_act

SHAPES = ((128, 256), (128, 128), (256, 64), (256, 32), (512, 16))  # channels, height and width
GROUPS, WARM, TIMED = 32, 3, 10


def plain(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm and SiLU as autocast runs them, and the cast before the next convolution."""
    return F.silu(norm(x.float())).to(x.dtype)


def results(run: Callable[[Tensor, nn.GroupNorm], Tensor], x: Tensor, norm: nn.GroupNorm, up: Tensor) -> list[Tensor]:
    """Output, and gradients of input, weight and bias."""
    x = x.detach().requires_grad_()
    y = run(x, norm)
    return [y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), up.to(y.dtype))]


def difference(found: list[Tensor], exact: list[Tensor]) -> float:
    pairs = zip(found, exact, strict=True)
    return max(float((own.double() - best).abs().max() / best.abs().max()) for own, best in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the fused group norm on a GPU.")
    parser.add_argument("--batch", type=int, default=16)
    batch = parser.parse_args().batch
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {batch}", flush=True)
    table(["channels x size", "torch, ms", "fused, ms", "ratio", "GB/s of fused", "torch, error", "fused, error"])
    for channels, size in SHAPES:
        torch.manual_seed(0)
        norm = nn.GroupNorm(GROUPS, channels, eps=1e-6).cuda()
        nn.init.normal_(norm.weight, 1, 0.2)
        x, up = (torch.randn(batch, channels, size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        x, up = (own.to(memory_format=torch.channels_last) for own in (x, up))
        both = {"torch": plain, "fused": norm_act}
        times = {name: gpu_milliseconds(partial(results, run, x, norm, up), TIMED, WARM) for name, run in both.items()}
        exact = results(lambda own, n: F.silu(n(own)), x.double(), norm.double(), up.double())
        norm.float()
        errors = {name: difference(results(run, x, norm, up), exact) for name, run in both.items()}
        moved = 7 * x.numel() * x.element_size() / 1e6 / times["fused"]  # 2 reads, 1 write; backward 3 reads, 1 write
        ratio = times["torch"] / times["fused"]
        cells = [f"{times['torch']:.3f}", f"{times['fused']:.3f}", f"{ratio:.2f}", f"{moved:,.0f}"]
        line([f"{channels} x {size}", *cells, *(f"{errors[name]:.1e}" for name in both)])


if __name__ == "__main__":
    main()
