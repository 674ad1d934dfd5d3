"""Checkpoints stay whole whatever happens while they are written."""

import os
import re
import resource
import signal
import subprocess
import textwrap
import time

import pytest
import torch
from torch.utils.data import IterableDataset

from vistok.commands.failures import explain
from vistok.data.batches import Sample
from vistok.data.loaders import loader
from vistok.training.checkpoint_io import (
    CheckpointNotWritten,
    SafeCheckpointIO,
    damage,
    newest_valid,
    older,
    shift,
    signal_deferred,
)


def checkpoint(updates, size=10):
    return {"updates": updates, "batches": updates, "state_dict": {"x": torch.full((size,), float(updates))}}


def updates(path):
    return torch.load(path, weights_only=True)["updates"]


@pytest.mark.parametrize("keep, expected", [(1, [4]), (2, [4, 3]), (3, [4, 3, 2]), (9, [4, 3, 2, 1])])
def test_the_last_ones_are_kept(tmp_path, keep, expected):
    path = tmp_path / "checkpoints" / "last.ckpt"
    for i in range(1, 5):
        SafeCheckpointIO(keep).save_checkpoint(checkpoint(i), path)
    found = sorted(path.parent.iterdir())
    assert found == sorted(older(path, i) for i in range(len(expected)))
    assert [updates(older(path, i)) for i in range(len(expected))] == expected


def test_saving_goes_on_after_a_kill_between_the_two_renames(tmp_path):
    """The newest checkpoint then has two names, its own and that of the one before it."""
    path = tmp_path / "last.ckpt"
    for i in (1, 2):
        SafeCheckpointIO(2).save_checkpoint(checkpoint(i), path)
    shift(path, 2)
    SafeCheckpointIO(2).save_checkpoint(checkpoint(3), path)
    assert [updates(older(path, i)) for i in range(2)] == [3, 2]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "last.ckpt"
    for i in (1, 2):
        SafeCheckpointIO(2).save_checkpoint(checkpoint(i), path)
    assert updates(path) == 2 and updates(older(path, 1)) == 1


def test_a_full_disk_keeps_the_former_one(tmp_path):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1), path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(CheckpointNotWritten, match=r"last.ckpt was not written, [\d,]+ MiB are free"):
            SafeCheckpointIO().save_checkpoint(checkpoint(2, 1_000_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert updates(path) == 1 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("message", [
    "DataLoader worker (pid 7) is killed by signal: Killed. ", "CUDA error: an illegal memory access was encountered",
])  # fmt: skip
def test_an_error_of_something_else_is_not_the_files(tmp_path, monkeypatch, message):
    def fail(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match=re.escape(message)) as error:
        SafeCheckpointIO().save_checkpoint(checkpoint(1), tmp_path / "last.ckpt")
    assert not isinstance(error.value, CheckpointNotWritten) and list(tmp_path.iterdir()) == []


class Endless(IterableDataset):
    """Each image says which process read it."""

    def __iter__(self):
        while True:
            yield Sample(torch.zeros(3, 2, 2, dtype=torch.uint8), str(os.getpid()))


def test_a_loader_process_that_dies_meanwhile_is_reported_as_that(tmp_path, monkeypatch):
    """Torch raises its error wherever the training process is: the checkpoint is written all the same."""
    batches, save = iter(loader(Endless(), 1, 1, None)), torch.save
    worker = int(next(batches).names[0])

    def kill_and_save(*arguments):
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)  # torch is to see it too
        save(*arguments)

    monkeypatch.setattr(torch, "save", kill_and_save)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed") as error:
        SafeCheckpointIO().save_checkpoint(checkpoint(1), tmp_path / "last.ckpt")
    assert "a process that reads images is gone" in explain(error.value)
    assert updates(tmp_path / "last.ckpt") == 1 and len(list(tmp_path.iterdir())) == 1


def test_a_signal_is_held_back():
    came = []
    former = signal.signal(signal.SIGUSR1, lambda *_: came.append("handled"))
    try:
        with signal_deferred(signal.SIGUSR1):
            os.kill(os.getpid(), signal.SIGUSR1)
            came.append("done")
        assert came == ["done", "handled"]
        with pytest.raises(OSError, match="full"), signal_deferred(signal.SIGUSR1):  # then that is what went wrong
            os.kill(os.getpid(), signal.SIGUSR1)
            raise OSError("full")
        assert came == ["done", "handled"]
    finally:
        signal.signal(signal.SIGUSR1, former)


@pytest.mark.slow
def test_killed_while_writing(python, tmp_path):
    """Four kills at different moments of an endless sequence of writes: a whole checkpoint is always there."""
    path = tmp_path / "last.ckpt"
    program = textwrap.dedent(f"""
        import sys, torch
        from pathlib import Path
        from vistok.training.checkpoint_io import SafeCheckpointIO
        i = int(sys.argv[1])
        while True:
            content = {{"updates": i, "batches": i, "state_dict": {{"x": torch.full((2_000_000,), float(i))}}}}
            SafeCheckpointIO(3).save_checkpoint(content, Path({str(path)!r}))
            print(i, flush=True)
            i += 1
    """)
    written = 0
    for kill in range(4):
        process = subprocess.Popen([python, "-c", program, str(written + 1)], stdout=subprocess.PIPE, text=True)
        written = int(process.stdout.readline())
        time.sleep(0.01 * kill)
        process.kill()
        rest = process.communicate()[0].split()
        written = int(rest[-1]) if rest else written
        found = newest_valid(path, say=pytest.fail)
        assert found == path and updates(path) in (written, written + 1)
        assert (torch.load(path, weights_only=True)["state_dict"]["x"] == updates(path)).all()
        written = updates(path)


def test_a_damaged_one_is_passed_over(tmp_path):
    path = tmp_path / "last.ckpt"
    assert newest_valid(path, say=pytest.fail) is None
    for i in (1, 2, 3):
        SafeCheckpointIO(3).save_checkpoint(checkpoint(i, 10_000), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, which unpickling alone would not notice
    path.write_bytes(content)
    said = []
    assert newest_valid(path, said.append) == older(path, 1)
    assert len(said) == 1 and "last.ckpt is damaged" in said[0]
    older(path, 1).write_bytes(b"PK nonsense")
    assert newest_valid(path, said.append) == older(path, 2)
    older(path, 2).write_bytes(b"")
    with pytest.raises(ValueError, match="all 3 checkpoints in .* are damaged"):
        newest_valid(path, said.append)


def test_a_missing_newest_one_is_no_end(tmp_path):
    path = tmp_path / "last.ckpt"
    for i in (1, 2):
        SafeCheckpointIO(2).save_checkpoint(checkpoint(i), path)
    path.unlink()
    assert newest_valid(path, say=pytest.fail) == older(path, 1)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damage_is_described(tmp_path, content):
    path = tmp_path / "x.ckpt"
    if content is None:
        torch.save({"other": 1}, path)
    else:
        path.write_bytes(content)
    assert "x.ckpt" in damage(path)


def test_at_least_one_is_kept():
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1, not 0"):
        SafeCheckpointIO(0)
