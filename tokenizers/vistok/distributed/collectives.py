"""Collective operations over ranks; with a single process each returns its input."""

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
