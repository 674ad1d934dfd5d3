"""Options that make networks faster and change their results slightly; ``docs/performance.md`` has both effects."""

import ctypes
import importlib.util
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

# glibc's mallopt, malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
ONLY_CUDA = "the metrics need float64, which Apple's GPUs lack; other devices are untested"
PRECISIONS = ("highest", "high", "medium")
GRAPHS = 256  # compiled for one class of blocks: widths times grids times sizes of images
MODES = ("default", "reduce-overhead", "max-autotune")


@contextmanager
def fast(tokenizer: nn.Module) -> Iterator[None]:
    """Encodes and decodes faster within the block: networks in bfloat16, channels last; on a CPU also kept pages.

    The head still compares in float32, but its inputs come from bfloat16 networks, so that some codes differ. Do not
    use it to produce codes that are stored. Memory format and kept pages remain after the block; they change no value.

    Args:
        tokenizer: The tokenizer, on its device.
    """
    device = next(tokenizer.parameters()).device.type
    prepare(tokenizer, channels_last=channels_last_pays(device), keep_pages=device == "cpu")
    with torch.autocast(device, torch.bfloat16):
        yield


def prepare(
    *networks: nn.Module,
    channels_last: bool = False,
    keep_pages: bool = False,
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None,
    cudnn_benchmark: bool | None = None,
    matmul_precision: Literal["highest", "high", "medium"] | None = None,
    several_sizes: bool = False,
):
    """Makes networks faster in place; names and values of their weights are unchanged.

    Args:
        networks: Networks.
        channels_last: True stores the weights of convolutions channels last, so that their outputs are channels last
            too.
        keep_pages: True keeps freed memory in this process, see ``keep_freed_pages``.
        compile: Mode of torch.compile for blocks of encoders and decoders, ``reduce-overhead`` for CUDA graphs; None
            compiles none. Losses and discriminators are not compiled: R1 differentiates a discriminator twice.
        cudnn_benchmark: True has cuDNN try its algorithms for each new shape of a convolution, and keep the fastest;
            it may be another one in another process. None leaves this process's setting.
        matmul_precision: Precision of float32 matrix products on a GPU, as in torch.set_float32_matmul_precision; None
            leaves this process's setting.
        several_sizes: True for training images of several sizes, which share compiled graphs.

    Raises:
        ValueError: The mode or the precision is unknown.
    """
    if matmul_precision not in (None, *PRECISIONS):
        raise ValueError(f"speed.matmul_precision must be one of {', '.join(PRECISIONS)}, not {matmul_precision!r}")
    if compile is not None and compile not in MODES:
        raise ValueError(f"speed.compile must be null or one of {', '.join(MODES)}, not {compile!r}")
    if keep_pages:
        keep_freed_pages()
    if cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = cudnn_benchmark
    if matmul_precision is not None:
        torch.set_float32_matmul_precision(matmul_precision)
    for network in networks:
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compile and hasattr(network, "factor"):  # an encoder or a decoder
            compile_blocks(network, compile, several_sizes)


def compile_blocks(network: nn.Module, mode: str, several_sizes: bool = False) -> None:
    """Compiles each block of a network, in place and when it first computes: a graph for each shape of its input.

    A decoder's last layer is in no block: the adaptive adversarial weight needs the gradient of this layer alone, and a
    compiled backward pass always computes all of its gradients. torch keeps compiled code for later runs in
    ``/tmp/torchinductor_USER``, or in the folder that the environment names as ``TORCHINDUCTOR_CACHE_DIR``.

    Args:
        network: The network; one without repeated blocks stays as it is.
        mode: Mode of torch.compile.
        several_sizes: True compiles a graph for the first size of images, and one for all others.
    """
    from torch._dynamo import config  # slow to import

    # All blocks of a class have one cache. Beyond the limit torch would compute without compiling, and say nothing.
    config.cache_size_limit = max(GRAPHS, config.cache_size_limit)
    last = getattr(network, "last_layer", None)
    for block in blocks_of(network):
        if not any(weight is last for weight in block.parameters()):
            block.compile(mode=mode, dynamic=None if several_sizes else False)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Repeated parts of a network, none inside another: modules of a class that occurs again, without lists of modules.

    They are the residual blocks of a CNN, and the blocks of a transformer.
    """
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    times = Counter(type(module) for module in network.modules())
    for module in network.modules():
        own = list(module.modules())
        library = type(module).__module__.startswith("torch.")
        if module in inside or library or times[type(module)] < 2 or len(own) < 2:
            continue
        if not any(isinstance(part, nn.ModuleList) for part in own):
            found.append(module)
            inside |= set(own)
    return found


def channels_last_pays(device: str) -> bool:
    """True on a CPU, and on a GPU with fused group norms; torch's own copy channels-last activations on a GPU."""
    return device == "cpu" or (device == "cuda" and triton_runs())


@torch.compiler.assume_constant_result
def triton_runs() -> bool:
    """True if Triton is installed and supports the GPU."""
    if importlib.util.find_spec("triton") is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability() >= (8, 0)


def keep_freed_pages() -> bool:
    """Makes this process's allocator keep freed memory, so that later activations need no fresh, zeroed pages.

    Otherwise glibc returns every large block to the kernel, and each layer pays for page faults. The cost is some
    resident memory: fragments between used blocks.

    Returns:
        True if the allocator supports it: glibc's, on Linux.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def emulates_bfloat16() -> bool:
    """True on an x86 CPU without AVX-512, where each operation converts bfloat16 to float32 and back."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
