"""The GPU's distance of features: its arithmetic under Triton's interpreter, its machine code, and itself on a GPU."""

import pytest
import torch

from vistok.kernels.feature_distance import normalised_distance

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from vistok.kernels import feature_distance_triton as kernels

from .interpreter import output_of

# Float64 on the CPU is the reference. Cases: b, c, h, w, dtype, channels last.
PROGRAM = """
import torch
from vistok.kernels import feature_distance_triton as kernels
from vistok.kernels.feature_distance import EPSILON, backward, normalised_distance

torch.manual_seed(0)
cases = [
    (2, 12, 10, 11, torch.float32, True),
    (1, 12, 10, 11, torch.float32, False),
    (2, 192, 1, 3, torch.float32, True),
    (1, 8, 9, 7, torch.bfloat16, True),
]
kernels.ELEMENTS = 512  # several tiles of a part, and several parts of an image
for b, c, h, w, dtype, last in cases:
    memory = torch.channels_last if last else torch.contiguous_format
    x, target = (torch.randn(b, c, h, w).relu().to(dtype).contiguous(memory_format=memory) for _ in range(2))
    weight, gradient = torch.rand(c), torch.randn(b)
    x[0, :, 0, 0] = 0
    target = target.contiguous()  # in another format than x
    distance = kernels.forward(x, target, weight, EPSILON)
    to_x = kernels.backward(gradient, x, target, weight, EPSILON)
    exact = [t.double() for t in (x, target, weight)]
    wanted = backward(gradient.double(), *exact)
    torch.testing.assert_close(distance.double(), normalised_distance(*exact), rtol=1e-6, atol=0)
    assert to_x.dtype == dtype and to_x.is_contiguous(memory_format=memory) and (to_x[0, :, 0, 0] == 0).all()
    bound = (2**-7 if dtype == torch.bfloat16 else 2e-6) * wanted.abs().max()  # the interpreter truncates
    assert (to_x.double() - wanted).abs().max() <= bound, (b, c, dtype, last)
    assert (kernels.forward(x, x.clone(), weight, EPSILON) == 0).all()
print(len(cases), "cases")
"""


def test_the_interpreted_kernels_equal_float64():
    assert output_of(PROGRAM) == "4 cases\n"


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("kernel", [kernels.sums, kernels.gradients])
def test_kernels_compile(kernel, tmp_path, monkeypatch):
    """To machine code of an H100, which needs none: Triton brings NVIDIA's assembler. It has no fused multiply-adds."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"EPSILON": 1e-10, "BN": 32, "BC": 128, "x_c": 1, "t_c": 1} | (
        {"g_c": 1} if kernel is kernels.gradients else {}
    )
    types = dict.fromkeys(("weight", "partial", "gradient"), "*fp32") | dict.fromkeys(("x", "target", "to_x"), "*bf16")
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    made = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert made.asm["cubin"].startswith(b"\x7fELF") and made.metadata.shared <= 48 * 1024
    assert "fma" not in made.asm["ptx"]
    assert not torch.cuda.is_initialized()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(4, 64, 256, 256), (3, 192, 31, 31), (2, 512, 16, 16)])
def test_on_a_gpu(shape, memory, dtype):
    torch.manual_seed(0)
    x, target = (torch.randn(shape).relu().to(dtype).cuda().to(memory_format=memory) for _ in range(2))
    weight = torch.rand(shape[1], device="cuda")
    x.requires_grad_()
    distance = normalised_distance(x, target, weight)
    (to_x,) = torch.autograd.grad(distance.sum(), x)
    exact = x.detach().cpu().double().requires_grad_()
    wanted = normalised_distance(exact, target.cpu().double(), weight.cpu().double())
    (expected,) = torch.autograd.grad(wanted.sum(), exact)
    torch.testing.assert_close(distance.cpu().double(), wanted.detach(), rtol=1e-6, atol=0)
    assert (to_x.cpu().double() - expected).abs().max() <= (
        2**-8 if dtype == torch.bfloat16 else 1e-5
    ) * expected.abs().max()
    assert (normalised_distance(x, x.detach().clone(), weight) == 0).all()
