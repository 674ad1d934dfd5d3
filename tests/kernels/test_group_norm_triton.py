"""The GPU's group norm: its arithmetic under Triton's interpreter, its machine code, and itself on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from vistok.kernels.group_norm import fused

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from vistok.kernels import group_norm_triton as kernels

from .interpreter import output_of

# Float64 by autograd is the reference. Cases: b, c, h, w, groups, dtype, SiLU, with another gradient at the input,
# with a shift of the channels, mean of the input.
PROGRAM = """
import torch
import torch.nn.functional as F
from vistok.kernels import group_norm_triton as kernels

torch.manual_seed(0)
last = {"memory_format": torch.channels_last}
cases = [
    (1, 12, 9, 13, 4, torch.float32, True, True, True, 0.0),
    (2, 12, 5, 3, 12, torch.float32, False, False, True, 0.0),
    (1, 8, 1, 1, 2, torch.float32, True, False, False, 0.0),
    (1, 6, 10, 13, 3, torch.float32, True, False, False, 300.0),
    (2, 8, 9, 7, 4, torch.bfloat16, True, True, True, 0.0),
]
kernels.ELEMENTS = 256  # several tiles of a part, and several parts of an image
for b, c, h, w, groups, dtype, silu, added, shifted, offset in cases:
    x, gradient, other = (torch.randn(b, c, h, w).to(dtype).to(**last) for _ in range(3))
    x = (x + offset).to(**last)
    weight, bias = torch.randn(c), torch.randn(c)
    shift = torch.randn(c) if shifted else None
    y, mean, rstd = kernels.forward(x, shift, weight, bias, groups, 1e-6, silu)
    arguments = (gradient, other if added else None, x, shift, mean, rstd, weight, bias, groups, silu)
    results = kernels.backward(*arguments)

    exact = [t.double().requires_grad_() for t in (x, torch.zeros(c) if shift is None else shift, weight, bias)]
    expected = F.group_norm(exact[0] + exact[1][:, None, None], groups, *exact[2:], 1e-6)
    expected = F.silu(expected) if silu else expected
    loss = (expected * gradient.double()).sum() + (exact[0] * other.double()).sum() * added
    wanted = torch.autograd.grad(loss, exact)
    assert y.is_contiguous(**last) and results[0].is_contiguous(**last) and y.dtype == results[0].dtype == dtype
    for i, (ours, theirs) in enumerate(zip([y, *results], [expected, *wanted], strict=True)):
        if i == 2 and not shifted:
            continue
        # The interpreter truncates to bfloat16, where GPUs round.
        bound = (2**-7 if ours.dtype == torch.bfloat16 else 1e-4 if offset else 2e-6) * max(theirs.abs().max(), 1.0)
        assert (ours.double() - theirs).abs().max() <= bound, (b, c, groups, dtype, added)
    again = kernels.backward(*arguments)
    assert all(torch.equal(one, other) for one, other in zip(results, again, strict=True))
print(len(cases), "cases")
"""


def test_the_interpreted_kernels_equal_float64():
    assert output_of(PROGRAM) == "5 cases\n"


WIDE = {"shift", "mean", "rstd", "partial", "per_image", "per_group", "weight", "bias"}
HALF = {"x", "added", "y", "gradient", "to_x"}
TILE = {"BN": 32, "BC": 128}
CASES = [
    (kernels.moments, TILE),
    (kernels.merge, {"SHIFTED": True, "BS": 32, "BG": 4}),
    (kernels.normalise, {"SHIFTED": True, "SILU": True, **TILE}),
    (kernels.channel_sums, {"SHIFTED": True, "SILU": True, "BN": 16, "BC": 128}),
    (kernels.group_sums, {"BS": 32, "BG": 4}),
    (kernels.gradients, {"SHIFTED": True, "SILU": True, "ADDED": True, "BN": 16, "BC": 128}),
]


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_kernels_compile(tmp_path, monkeypatch):
    """To machine code of an H100, which needs none: Triton brings NVIDIA's assembler."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, constants in CASES:
        types = dict.fromkeys(WIDE, "*fp32") | dict.fromkeys(HALF, "*bf16") | {"eps": "fp32"}
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
        source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
        made = compile_kernel(source, target=GPUTarget("cuda", 90, 32))
        assert made.asm["cubin"].startswith(b"\x7fELF") and made.metadata.shared <= 48 * 1024
    assert not torch.cuda.is_initialized()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, groups", [((2, 128, 64, 64), 32), ((3, 320, 17, 31), 32), ((1, 96, 256, 256), 8)])
def test_on_a_gpu(shape, groups, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype).cuda().to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(shape[1], device="cuda", requires_grad=True) for _ in range(2))
    gradient = torch.randn_like(x)
    y = fused(x, None, weight, bias, groups, 1e-6, True)[0]
    ours = [y, *torch.autograd.grad(y, (x, weight, bias), gradient)]
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y = F.silu(F.group_norm(exact[0], groups, *exact[1:], 1e-6))
    for own, other in zip(ours, [y, *torch.autograd.grad(y, exact, gradient.double())], strict=True):
        bound = (2**-8 if own.dtype == torch.bfloat16 else 1e-5) * other.abs().max()
        assert (own.double() - other).abs().max() <= bound
