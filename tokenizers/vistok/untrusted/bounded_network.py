"""Networks built from descriptions of unknown sources, bounded by the size of their weights."""

import collections
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vistok.untrusted.bounded_json import short

MAX_OF_NETWORK = 4_000  # most tensors of a network
MAX_CALLS, MAX_CALLS_FOR_EACH = 1_000, 12  # calls of torch to build a network: a base, and for each tensor
SMALL = 4_096  # largest tensor, in values, that a constructor may create besides those of the file
# Calls that return a tensor of the shape that they got: without values there is nothing to do, which saves time, and
# for ``normalize`` an import of sympy by torch.
KEPT = {"normalize", "uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_", "zeros_", "ones_"}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Network = TypeVar("Network", bound=nn.Module)


class Beyond(ValueError):
    """A description needs more than its file of weights has."""


class Bounded(TorchFunctionMode):
    """Stops a construction that creates more or larger tensors than a file has, or empty ones.

    Used inside ``torch.device("meta")``, where tensors have shapes but no values, so that it stops before memory is
    allocated.

    Args:
        tensors: Tensors of the file.

    Raises:
        Beyond: The construction exceeds the file, or the file has more tensors than a network.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        sizes = [tensor.numel() for tensor in tensors]
        if len(sizes) > MAX_OF_NETWORK:
            raise Beyond(f"it has {len(sizes):,} tensors, more than {MAX_OF_NETWORK:,}, as no tokenizer has")
        self.largest = max(sizes, default=0) + SMALL
        self.number = len(sizes)
        self.calls = MAX_CALLS + MAX_CALLS_FOR_EACH * len(sizes)

    def __enter__(self):
        self.gradients = torch.is_grad_enabled()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        torch.set_grad_enabled(self.gradients)  # a stop within ``torch.no_grad()``, as in nn.init, may leave them off

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        kept = getattr(function, "__name__", "") in KEPT and isinstance(tensor, Tensor) and tensor.is_meta
        result = tensor if kept else function(*args, **(kwargs or {}))
        self.calls -= 1
        if self.calls < 0:
            raise Beyond(f"it describes a network of far more than the {self.number:,} tensors that there are")
        if isinstance(result, Tensor) and not 0 < result.numel() <= self.largest:
            sizes = " x ".join(f"{side:,}" for side in result.shape)
            raise Beyond(f"it describes a tensor of {sizes} values; the largest that there is has {self.largest:,}")
        return result


def network_of(tensors: Mapping[str, Tensor], build: Callable[[], Network]) -> Network:
    """Network that ``build`` makes, with the values of a file.

    It is built twice: first without values, to check that the file has exactly its tensors with the same shapes; then
    with values, since a constructor may compute values that no file has.

    Args:
        tensors: Tensors of the file.
        build: Makes the same network at each call.

    Raises:
        ValueError: ``build`` raises it, or the network and the file have different tensors.
    """
    with torch.device("meta"), Bounded(tensors.values()):
        planned = build()
    refuse_differences(tensors, planned.state_dict())
    network = build()
    network.load_state_dict(tensors)
    return network


def refuse_differences(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuses tensors whose names, shapes or types differ from the expected ones.

    Raises:
        Beyond: The message lists the first differences.
    """
    differences = [f"Missing key {short(name)}" for name in expected if name not in tensors]
    differences += [f"Unexpected key {short(name)}" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        ours, theirs = expected[name], tensors[name]
        if ours.shape != theirs.shape:
            differences.append(f"{short(name)} has the sizes {list(theirs.shape)}, not {list(ours.shape)}")
        elif theirs.dtype not in FLOATS if ours.dtype in FLOATS else theirs.dtype != ours.dtype:
            differences.append(f"{short(name)} is {theirs.dtype}, not {ours.dtype}")
    if differences:
        more = f" and {len(differences) - 4:,} more" if len(differences) > 4 else ""
        raise Beyond("; ".join(sorted(differences)[:4]) + more)


def refuse_shared(tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that share storages such that copies would take far more memory than the file.

    Raises:
        ValueError: They do.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    copied = math.fsum(t.numel() * t.element_size() for t in tensors.values())
    if copied > 2 * sum(storages.values()) + 2**20:
        raise ValueError(f"its tensors share storages: {sum(storages.values()):,} bytes would become {copied:,.0f}")


def unshared(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that fill a storage of their own, without another tensor in it."""
    users = collections.Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    return {
        name
        for name, tensor in tensors.items()
        if tensor.untyped_storage().nbytes() == tensor.nbytes and users[tensor.untyped_storage().data_ptr()] == 1
    }
