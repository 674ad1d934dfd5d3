"""The GPU's search: its arithmetic under Triton's interpreter on the CPU, and itself where there is a GPU."""

import pytest
import torch

from vistok.kernels import nearest_code, nearest_cpu

from .interpreter import output_of

pytest.importorskip("triton")

PROGRAM = """
import math
import torch
from vistok.kernels import nearest_cpu
from vistok.kernels import nearest_triton

torch.manual_seed(0)
cases = {
    "ragged": (torch.randn(70, 8), torch.randn(300, 8)),
    "columns in parts": (torch.randn(20, 100), torch.randn(140, 100)),
    "spans": (torch.randn(5, 3), torch.randn(2100, 3)),
    "one of each": (torch.randn(1, 5), torch.randn(1, 5)),
    "equal codewords in several tiles": (torch.randn(30, 8), torch.randn(40, 8).repeat(8, 1)),
    "bfloat16": (torch.randn(40, 8).bfloat16(), torch.randn(300, 8).bfloat16()),
    "integers": (torch.randint(-3, 4, (40, 4)), torch.randint(-3, 4, (300, 4))),
    "float64": (torch.randn(20, 4).double() + 1e6, torch.randn(200, 4).double() + 1e6),
    "huge": (torch.randn(20, 8) * 1e30, torch.randn(200, 8) * 1e30),
    "columns": (torch.randn(8, 20).T, torch.randn(8, 200).T),
}
lost = torch.randn(4, 4)
lost[1, 2], lost[2, 0] = math.nan, math.inf
cases["vectors not finite"] = (lost, torch.randn(200, 4))
codebook = torch.randn(300, 4)
codebook[7], codebook[150], codebook[250] = -math.inf, math.nan, math.nan
cases["codewords not finite"] = (torch.randn(4, 4), codebook)
for name, (z, codebook) in cases.items():
    codes, expected = nearest_triton.search(z, codebook), nearest_cpu.reference(z, codebook)
    assert codes.dtype == torch.int64 and torch.equal(codes, expected), (name, codes, expected)
print(len(cases), "cases")
"""


def test_the_interpreted_kernel_finds_the_nearest():
    assert output_of(PROGRAM) == "12 cases\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n, k, d", [(3000, 16384, 8), (1, 70000, 32), (517, 4099, 256), (65536, 1000, 100)])
def test_on_a_gpu(n, k, d, dtype):
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d).to(dtype), torch.randn(k, d).to(dtype)
    codebook[k // 2 :] = codebook[: k - k // 2].clone()
    codes = nearest_code(z.cuda(), codebook.cuda()).cpu()
    chosen, least = (
        (z.double() - codebook[of].double()).square().sum(1) for of in (codes, nearest_cpu.search(z, codebook))
    )
    assert (chosen <= least * (1 + 1e-6)).all() and codes.max() < (k + 1) // 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for():
    z, codebook = torch.randn(3000, 8).cuda(), torch.randn(16384, 8).cuda()
    nearest_code(z, codebook)  # tuned once
    torch.cuda.set_sync_debug_mode("error")
    try:
        nearest_code(z, codebook)
    finally:
        torch.cuda.set_sync_debug_mode("default")
