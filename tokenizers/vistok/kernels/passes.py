"""Bytes that custom operations read from and write to a GPU's memory, declared beside each of them like its FLOPs.

The bytes of other operations follow from their tensors. A custom operation may pass over a tensor several times, and
over buffers of its own, so it has a formula: a function of the operation's arguments and its result ``out_val``.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

FORMULAS: dict[Any, Callable[..., int]] = {}  # by operation, such as torch.ops.vistok.nearest_code


def register_bytes(operation: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator of an operation's formula."""

    def register(formula: Callable[..., int]) -> Callable[..., int]:
        FORMULAS[operation] = formula
        return formula

    return register


def size(tensor: Tensor) -> int:
    """Bytes of a tensor's different elements: those that an expanded tensor repeats count once."""
    count = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride or not length else 1
    return count


def sizes(tensors: Iterable[Any]) -> int:
    """Bytes of all tensors among the values."""
    return sum(size(tensor) for tensor in tensors if isinstance(tensor, Tensor))


def scores_size(z: Tensor, codebook: Tensor) -> int:
    """Bytes of one pass over the scores of vectors (n, d) and codewords (k, d), which are processed in slices."""
    return len(z) * len(codebook) * z.element_size()
