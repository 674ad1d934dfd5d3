"""What makes networks faster and their numbers slightly other ones; how much of both is in ``docs/performance.md``."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# glibc's mallopt, malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
ONLY_CUDA = "the metrics are sums in float64, which Apple's GPUs do not have, and no others were tried"
MODES = ("default", "reduce-overhead", "max-autotune")


@contextmanager
def fast(tokenizer: nn.Module) -> Iterator[None]:
    """Encode and decode fast within the block: networks in bfloat16, on a CPU channels last and with kept pages too.

    The head compares in float32 as always, but what it compares comes from bfloat16 networks: some codes are others.
    Whoever stores codes should do without. Memory format and kept pages stay after the block; they change no value.

    Args:
        tokenizer: On its device.
    """
    device = next(tokenizer.parameters()).device.type
    prepare(tokenizer, channels_last=device == "cpu", keep_pages=device == "cpu")
    with torch.autocast(device, torch.bfloat16):
        yield


def prepare(*networks: nn.Module, channels_last: bool = False, keep_pages: bool = False, compile: str | None = None):
    """Make networks faster in place; names and values of their weights stay.

    Args:
        networks: Each is compiled by itself.
        channels_last: Hold the weights of convolutions channels last, so that all they compute is, too.
        keep_pages: Keep freed memory in this process, see ``keep_freed_pages``.
        compile: torch.compile's mode, ``reduce-overhead`` for CUDA graphs; None leaves it out.

    Raises:
        ValueError: There is no such mode.
    """
    if compile is not None and compile not in MODES:
        raise ValueError(f"speed.compile must be null or one of {', '.join(MODES)}, not {compile!r}")
    if keep_pages:
        keep_freed_pages()
    for network in networks:
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compile:
            network.compile(mode=compile)


def keep_freed_pages() -> bool:
    """Let the allocator of this process keep what is freed, so that the next activations need no fresh, zeroed pages.

    Without it glibc hands every large block back to the kernel, and each layer pays for page faults. Costs some
    resident memory: fragments between blocks in use.

    Returns:
        Whether there is such an allocator: glibc's, on Linux.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def emulates_bfloat16() -> bool:
    """Whether this is an x86 CPU without AVX-512, where bfloat16 is converted to float32 and back by each operation."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
