"""The GPU's search compiles to machine code of GPUs, which needs none: Triton brings NVIDIA's assembler."""

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from vistok.kernels import nearest_triton as kernels  # noqa: E402

POINTERS = {"packed": "*i64", "starts": "*i32", "listed": "*i32", "count": "*i32"}
POINTERS |= dict.fromkeys(("mean", "scale", "halves", "scores"), "*fp32")
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have on an A100 and an H100


def compiled(kernel, arch, inputs="*fp32", options=None, **constants):
    pointers = POINTERS | {"z": inputs, "codebook": inputs}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options or {})


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("arch", MOST_SHARED)
def test_kernels_compile(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    largest = max(kernels.CONFIGS, key=lambda config: config.kwargs["BM"] * config.kwargs["BN"] * config.num_stages)
    options = {"num_warps": largest.num_warps, "num_stages": largest.num_stages}
    tiles = largest.kwargs | {"BD": 32, "FULL": False, "SINGLE": False, "FACTOR": triton.language.bfloat16}
    made = [
        compiled(kernels.half_norms, arch, BD=16),
        compiled(kernels.tile_maxima.fn, arch, options=options, **tiles),
        compiled(kernels.resolve, arch, BD=16),
        compiled(kernels.rescan, arch, BD=16),
    ]
    assert all(kernel.asm["cubin"].startswith(b"\x7fELF") for kernel in made)
    assert all(kernel.metadata.shared <= MOST_SHARED[arch] for kernel in made)
    assert not torch.cuda.is_initialized()
