"""Whatever ends a run from outside ends it soon, and says so."""

import errno
import multiprocessing
import os
import re
import signal
import socket
import time
import urllib.request

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from vistok import configuration, pretrained
from vistok.commands import composition, failures
from vistok.commands.failures import explain
from vistok.data.batches import Sample
from vistok.data.folder_listing import list_images
from vistok.data.loaders import loader
from vistok.processes import signals
from vistok.processes.patience import within

END_WORKERS = failures._end_workers  # tests leave the processes of others alone (conftest)


def test_processes_that_are_left_are_ended_in_silence():
    """Torch's handler of SIGCHLD would raise an error of its own, in place of the message that is about to be said."""
    came = []

    def torchs(*_):
        came.append(1)

    former = signal.signal(signal.SIGCHLD, torchs)
    try:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        END_WORKERS()
        child.join(10)
        assert child.exitcode == -signal.SIGKILL and came == [] and signal.getsignal(signal.SIGCHLD) == torchs
    finally:
        signal.signal(signal.SIGCHLD, former)


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
        composition.run(fail)
    assert str(ended.value.code).startswith("error: ") and "run.resume=auto" in ended.value.code
    assert re.search(message, ended.value.code)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), TypeError("not callable"), KeyError("x")])
def test_other_errors_keep_their_traceback(error):
    assert explain(error) is None

    def fail():
        raise error

    with pytest.raises(type(error)):
        composition.run(fail)


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
    for number in signals.NUMBERS:
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
    assert (
        said.startswith("out of memory: ")
        and str(error) in said
        and "batch_size" in said
        and "estimate run.gpu_memory=GIB" in said
    )


@pytest.mark.parametrize("error, message", [
    (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
    (OSError(errno.EIO, "Input/output error"), r"\[Errno 5\] Input/output error"),
    (MemoryError(), "out of memory: "),
    (ImportError("x needs y:\n pip install y"), "x needs y: pip install y"),
    (ValueError("name \x1b[31m"), r"name \\x1b\[31m"),
])  # fmt: skip
def test_what_the_user_or_the_machine_did_is_one_line(error, message, monkeypatch):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        failures.guard(fail, again="the same command goes on")
    assert re.fullmatch(f"error: {message}.*HYDRA_FULL_ERROR=1 shows where.", ended.value.code)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(type(error)):
        failures.guard(fail)


def test_what_a_constructor_makes_of_a_value_names_the_key():
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    config = OmegaConf.create({"part": {"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}})
    with pytest.raises(InstantiationException) as refused:
        configuration.instantiate(config.part)
    assert re.match("part: RuntimeError: Trying to create tensor with negative dim", failures.message_of(refused.value))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_a_command_in_order(number, capsys):
    done, former = [], signal.getsignal(number)

    def work():
        try:
            with signals.deferred():
                signal.raise_signal(number)
                done.append("a whole step")
            done.append("one more")
        finally:
            done.append("in order")

    with pytest.raises(SystemExit) as ended:
        failures.guard(work, again="the same command goes on")
    assert ended.value.code == 128 + number and done == ["a whole step", "in order"]
    assert capsys.readouterr().err == f"interrupted by {number.name}; the same command goes on\n"
    assert signal.getsignal(number) is former


def test_nohup_works_and_a_second_ctrl_c_is_at_once():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.caught():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt), signals.deferred():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_silent_storage_without_workers_is_an_error_in_time():
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader timed out after 0.2 seconds") as error:
        list(loader(Images(silent=3), 2, 0, None, timeout=0.2))
    assert time.monotonic() - began < 30 and "data.timeout (--timeout)" in explain(error.value)
    assert len(list(loader(Images(), 2, 0, None, timeout=100))) == 20


def test_a_named_pipe_holds_up_nothing(tmp_path):
    """In a folder it is no image; read as a file it is waited for no longer than asked."""
    os.mkfifo(tmp_path / "x.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "y.png")
    assert list_images(tmp_path) == ["y.png"]
    with pytest.raises(RuntimeError, match="timed out"):
        within(0.2, (tmp_path / "x.jpg").read_bytes)
    with pytest.raises(FileNotFoundError):
        within(5, (tmp_path / "z.jpg").read_bytes)


def test_a_silent_server_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(pretrained, "SILENCE", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        said = "x could not be downloaded .*timed out"
        with pytest.raises(pretrained.WeightsUnavailable, match=said), pretrained.downloading("x", "give a file"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert socket.getdefaulttimeout() is None


def test_workers_are_ended_without_an_error_of_their_own(capsys, monkeypatch):
    monkeypatch.undo()  # of conftest's, which leaves them alone
    batches = iter(loader(Images(), 1, 2, None))
    next(batches)
    with pytest.raises(SystemExit):
        failures.guard(lambda: signal.raise_signal(signal.SIGTERM), again="the same command goes on")
    assert not multiprocessing.active_children()
    time.sleep(0.2)  # torch's handler would raise here
    assert capsys.readouterr().err == "interrupted by SIGTERM; the same command goes on\n"
