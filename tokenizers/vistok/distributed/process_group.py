"""Process group of an evaluation or extraction: processes started by ``torchrun``, or a single one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from vistok.speed import ONLY_CUDA

TOGETHER = timedelta(minutes=30)  # timeout of the first process for the last


@contextmanager
def processes(device: str | None) -> Iterator[torch.device]:
    """Yields the device of this process, and sets up the process group of the processes that ``torchrun`` started.

    Raises:
        ValueError: torch does not know the device or has none of this kind, or it is neither a CPU nor a CUDA GPU.
    """
    world_size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type == "cuda" and chosen.index is None:
            chosen = torch.device("cuda", local)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: {' '.join(str(error).split())}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device} must be cpu or cuda: {ONLY_CUDA}")
    if world_size == 1 or dist.is_initialized():
        yield chosen
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TOGETHER)
    try:
        yield chosen
        dist.barrier()  # rank 0 is still writing
    finally:
        dist.destroy_process_group()
