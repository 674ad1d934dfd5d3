"""What ranks say to each other; on a single process nothing changes."""

import torch.distributed as dist
from torch import Tensor


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


def from_rank_zero(tensor: Tensor) -> Tensor:
    """The tensor of rank 0, on all ranks; ``tensor`` itself is overwritten."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor
