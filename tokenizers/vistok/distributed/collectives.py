"""Collective operations over ranks; with a single process each returns its input."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel


def rank_and_size() -> tuple[int, int]:
    """Rank of this process and number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def averaged_when(model: Any, now: bool) -> AbstractContextManager[None]:
    """Context for a backward pass: DDP averages gradients over ranks if ``now``, else they accumulate on each rank.

    Args:
        model: DDP's wrapper; for any other model the context does nothing.
        now: True for the last batch of an update only, since each average sends a message as large as the model.
    """
    return nullcontext() if now or not isinstance(model, DistributedDataParallel) else model.no_sync()


def mean_with_gradient(tensor: Tensor) -> Tensor:
    """Mean over all ranks, differentiable; every rank gets it.

    After DDP has averaged gradients, a loss of this mean has the same gradient as on one process with all data.
    """
    _, size = rank_and_size()
    return tensor if size == 1 else all_reduce(tensor) / size


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over all ranks, on every rank; ``tensor`` is overwritten."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def sums_over_ranks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over all ranks of several tensors, on every rank: one all-reduce for each dtype, not for each tensor."""
    if rank_and_size()[1] == 1:
        return dict(tensors)
    sums = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        own = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
        total = sum_over_ranks(torch.cat([tensor.flatten() for tensor in own.values()]))
        parts = total.split([tensor.numel() for tensor in own.values()])
        sums |= {name: part.view_as(tensor) for (name, tensor), part in zip(own.items(), parts, strict=True)}
    return sums


def means_over_ranks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over all ranks of several tensors, on every rank, as ``sums_over_ranks`` computes sums."""
    sums, (_, size) = sums_over_ranks(tensors), rank_and_size()
    return sums if size == 1 else {name: total / size for name, total in sums.items()}


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Mean over all ranks, on every rank; ``tensor`` is overwritten."""
    if dist.is_available() and dist.is_initialized():
        sum_over_ranks(tensor).div_(dist.get_world_size())
    return tensor


def cat_over_ranks(tensor: Tensor) -> Tensor:
    """Tensors of all ranks, concatenated along the first axis in the order of ranks, on every rank; not differentiable.

    The tensors must have the same shape on every rank.
    """
    _, size = rank_and_size()
    if size == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def broadcast_from_rank_zero(tensor: Tensor) -> Tensor:
    """Tensor of rank 0, on every rank; ``tensor`` is overwritten."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """Values of all ranks in the order of ranks, on every rank; any value that pickles."""
    _, size = rank_and_size()
    values = [value] * size
    if size > 1:
        dist.all_gather_object(values, value)
    return values
