"""What ranks say to each other; on a single process nothing changes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def averaged_when(model: Any, now: bool) -> AbstractContextManager[None]:
    """For backward passes: their gradients are averaged over ranks at once, or add up on each rank until ``now``.

    Args:
        model: DDP's wrapper; anything else averages nothing.
        now: Not before the last of an update's batches: each time costs a message as large as the model.
    """
    return nullcontext() if now or not isinstance(model, DistributedDataParallel) else model.no_sync()


def mean_with_gradient(tensor: Tensor) -> Tensor:
    """The mean over all ranks, on each of them, as part of the graph.

    A loss that is a function of this mean has, after DDP's averaging, the gradient it has on one process with all data.
    """
    _, size = rank_and_size()
    return tensor if size == 1 else all_reduce(tensor) / size


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, on each of them; ``tensor`` itself is overwritten."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean over all ranks, on each of them; ``tensor`` itself is overwritten."""
    if dist.is_available() and dist.is_initialized():
        sum_over_ranks(tensor).div_(dist.get_world_size())
    return tensor


def cat_over_ranks(tensor: Tensor) -> Tensor:
    """The tensors of all ranks along the first axis, in the ranks' order, on each of them; without gradient.

    They must be of the same shape on every rank.
    """
    _, size = rank_and_size()
    if size == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def broadcast_from_rank_zero(tensor: Tensor) -> Tensor:
    """The tensor of rank 0, on all ranks; ``tensor`` itself is overwritten."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """What each rank has, in their order, on all of them; anything that pickles."""
    _, size = rank_and_size()
    values = [value] * size
    if size > 1:
        dist.all_gather_object(values, value)
    return values
