"""What ends a run from outside, in words that say what to do about it."""

import errno
import re

import torch
import torch.distributed as dist

AGAIN = "the same command goes on from the last checkpoint with ckpt=auto"
MEMORY = (
    "  what to try: a smaller batch_size with a larger accumulate, which learns the same; estimate=GIB, which says the "
    "batch that fits; trainer.precision=bf16-mixed; backbone.encoder.checkpoint=true of a ViT; a smaller image_size"
)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What gloo and NCCL say; their errors are RuntimeErrors or, under NCCL, of classes of torch.distributed.
LOST = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer|Socket Timeout|Broken pipe", re.IGNORECASE)
LATE = re.compile(r"Timed out waiting|Watchdog caught collective operation timeout|Socket Timeout", re.IGNORECASE)


def explain(error: BaseException) -> str | None:
    """One message for an error that is neither the user's nor ours; None for all others.

    They are: memory that was not enough, a loader process that was killed or is silent, another rank that is gone or
    silent, a full disk.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {text}; once there is room {AGAIN}"
    if not isinstance(error, RuntimeError | dist.DistError):
        return None
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return f"out of memory: {text}\n{MEMORY}"
    if "DataLoader worker" in text and ("is killed by signal" in text or "exited unexpectedly" in text):
        return f"a process that reads images is gone, killed by hand or for want of memory: {text}; {AGAIN}"
    if "DataLoader timed out" in text:
        return f"no batch of images came within data.timeout: {text}; is the storage there? {AGAIN}"
    if isinstance(error, dist.DistError) or LOST.search(text):
        what = "did not answer within trainer.strategy.timeout" if LATE.search(text) else "is gone"
        return f"another process of this run {what}, its own message says why: {text}; {AGAIN}"
    return None
