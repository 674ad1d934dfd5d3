"""Networks built from descriptions that anybody may have written, within the size of their weights."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vistok.untrusted.bounded_json import MAX_CALLS, MAX_CALLS_FOR_EACH, short

MAX_OF_NETWORK = 4_000  # tensors of one network
SMALL = 4_096  # values of tensors that a constructor may make beside those of the file
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Network = TypeVar("Network", bound=nn.Module)


class Beyond(ValueError):
    """A description asks for more than its file of weights has."""


class Bounded(TorchFunctionMode):
    """Ends a construction that makes more tensors than a file has, or larger ones, or empty ones.

    Inside ``torch.device("meta")``, where tensors have sizes and no values, that is before anything is spent on them.

    Args:
        tensors: The file's.

    Raises:
        Beyond: It does, or the file has more tensors than a network.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        sizes = [tensor.numel() for tensor in tensors]
        if len(sizes) > MAX_OF_NETWORK:
            raise Beyond(f"it has {len(sizes):,} tensors, more than {MAX_OF_NETWORK:,}, as no tokenizer has")
        self.largest = max(sizes, default=0) + SMALL
        self.number = len(sizes)
        self.calls = MAX_CALLS + MAX_CALLS_FOR_EACH * len(sizes)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls -= 1
        if self.calls < 0:
            raise Beyond(f"it describes a network of far more than the {self.number:,} tensors that there are")
        if isinstance(made, Tensor) and not 0 < made.numel() <= self.largest:
            sizes = " x ".join(f"{side:,}" for side in made.shape)
            raise Beyond(f"it describes a tensor of {sizes} values; the largest that there is has {self.largest:,}")
        return made


def network_of(tensors: Mapping[str, Tensor], build: Callable[[], Network]) -> Network:
    """The network that ``build`` makes, with the values of a file.

    It is built twice: without values, to see that all tensors that it has are in the file, of the same sizes; then
    really, since a constructor may compute values that are in no file.

    Args:
        tensors: The file's.
        build: Gives the same network each time.

    Raises:
        ValueError: ``build`` raises it, or the network has other tensors than the file.
    """
    with torch.device("meta"), Bounded(tensors.values()):
        planned = build()
    refuse_differences(tensors, planned.state_dict())
    network = build()
    network.load_state_dict(tensors)
    return network


def refuse_differences(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have not the names, sizes and kinds of those expected.

    Raises:
        Beyond: The message lists the first of them.
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
    """Refuse tensors that take far more memory as copies than as they lie in a file, sharing storages.

    Raises:
        ValueError: They do.
    """
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    copied = math.fsum(t.numel() * t.element_size() for t in tensors.values())
    if copied > 2 * sum(held.values()) + 2**20:
        raise ValueError(f"its tensors share storages: {sum(held.values()):,} bytes would become {copied:,.0f}")
