"""Whatever ends a run from outside ends it soon, and says so."""

import errno
import os
import re
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from vistok import cli
from vistok.callbacks import LastCheckpoint
from vistok.data.images import Sample
from vistok.data.module import loader
from vistok.failures import explain


@pytest.mark.parametrize("error, message", [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: .*once there is room the same command"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process that reads images is gone"),
    (RuntimeError("DataLoader timed out after 20 seconds"), "no batch of images came within data.timeout"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"), "another process of this run is gone"),
    (RuntimeError("[gloo/x.cc:129] Timed out waiting 45000ms for send"), "did not answer within trainer.strategy.time"),
    (torch.distributed.DistBackendError("NCCL error: remote process exited"), "another process of this run is gone"),
])  # fmt: skip
def test_what_is_said(error, message):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(fail)
    assert str(ended.value.code).startswith("error: ") and "ckpt=auto" in ended.value.code
    assert re.search(message, ended.value.code)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OSError(errno.EIO, "I/O error"), KeyError("x")])
def test_other_errors_keep_their_traceback(error):
    assert explain(error) is None

    def fail():
        raise error

    with pytest.raises(type(error)):
        cli.run(fail)


class Images(Dataset):
    """Each says which process read it; one of them never comes."""

    def __init__(self, silent=None):
        self.silent = silent

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == self.silent:
            time.sleep(600)
        return Sample(torch.zeros(3, 2, 2, dtype=torch.uint8), str(os.getpid()))


def test_silent_storage_is_an_error_in_time():
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader timed out after 1") as error:
        list(loader(Images(silent=3), 2, 1, None, timeout=1))
    assert time.monotonic() - began < 60 and "data.timeout" in explain(error.value)
    with pytest.raises(ValueError, match="data.timeout must be more than 0 seconds, not 0"):
        loader(Images(), 2, 1, None, timeout=0)


def test_workers_outlive_the_signals_of_their_parent():
    """torchrun, SLURM and terminals send them to all processes, and the run has yet to save."""
    batches = iter(loader(Images(), 1, 1, None))
    worker = int(next(batches).names[0])
    for number in LastCheckpoint.SIGNALS:
        os.kill(worker, number)
        time.sleep(0.1)
    assert {int(name) for batch in batches for name in batch.names} == {worker}


def test_a_second_sigterm_ends_a_worker():
    batches = iter(loader(Images(silent=9), 1, 1, None))
    worker = int(next(batches).names[0])
    with pytest.raises(RuntimeError, match="killed by signal: Terminated|exited unexpectedly"):
        for _ in range(2):
            os.kill(worker, signal.SIGTERM)
            time.sleep(0.2)
        list(batches)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes."),
])  # fmt: skip
def test_memory_that_was_not_enough(error):
    said = explain(error)
    assert said.startswith("out of memory: ") and str(error) in said and "batch_size" in said and "estimate=GIB" in said
