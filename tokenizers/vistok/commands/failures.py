"""Messages of errors that end a command, with remedies."""

import errno
import multiprocessing
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vistok.processes import signals
from vistok.terminal import stop

AGAIN = "the same command goes on from the last checkpoint with run.resume=auto"
MEMORY = (
    "what to try: a smaller data.batch_size with a larger optim.accumulate, which learns the same; python -m vistok "
    "estimate run.gpu_memory=GIB, which prints the batch that fits; trainer.precision=bf16-mixed; "
    "backbone.encoder.checkpoint=true of a ViT; a smaller data.image_size"
)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Messages of gloo and NCCL, whose errors are RuntimeErrors or, under NCCL, of classes of torch.distributed.
LOST = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer|Socket Timeout|Broken pipe", re.IGNORECASE)
CLOSED = 128 + signal.SIGPIPE  # status that a shell reports for a program that such a pipe ended
LATE = re.compile(r"Timed out waiting|Watchdog caught collective operation timeout|Socket Timeout", re.IGNORECASE)
# Libraries whose errors are about what the user gave them: a config, an account, a name on a server.
OF_LIBRARIES = {"omegaconf", "hydra", "lightning_fabric", "wandb", "huggingface_hub", "httpx", "requests", "urllib3"}


def guard(action: Callable[..., Any], *arguments: Any, again: str | None = None) -> None:
    """Calls an action; an error of the user or of the machine ends in one message, a bug in a traceback.

    ``HYDRA_FULL_ERROR=1`` in the environment shows every traceback, as for Hydra's own errors.

    Args:
        action: The function that does the command's work.
        arguments: Arguments of the function.
        again: Advice for continuing after a signal, if a signal may end the command anywhere; None does not handle
            signals.
    """
    try:
        if again is None:
            action(*arguments)
        else:
            with signals.caught():
                action(*arguments)
    except (signals.Interrupted, KeyboardInterrupt) as error:
        if again is None:
            raise
        _end_workers()
        interrupted = error if isinstance(error, signals.Interrupted) else signals.Interrupted(signal.SIGINT)
        sys.stderr.write(f"interrupted by {interrupted}; {again}\n")
        raise SystemExit(interrupted.status) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            _end_without_output(error)
        message = message_of(error, AGAIN if again is None else again)
        _end_workers()
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        stop(f"{message} (HYDRA_FULL_ERROR=1 shows where)")


@contextmanager
def output_may_be_closed() -> Iterator[None]:
    """Ends the process quietly, with status 141, if the program that reads its output (``head``) ends in the block."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        _end_without_output(error)
        raise


def _end_without_output(error: BrokenPipeError) -> None:
    """Ends the process if nobody reads its standard output; the pipe of the error may be another one."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    poll = select.poll()
    poll.register(output, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python writes what is left when it ends
        _end_workers()
        raise SystemExit(CLOSED) from error


def _end_workers() -> None:
    """Kills the loader processes: Python would wait for them, forever if one is stopped or waits for storage."""
    workers = multiprocessing.active_children()
    if not workers:
        return
    former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises where a worker was killed
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=1)
    signal.signal(signal.SIGCHLD, former)


def message_of(error: BaseException, again: str = AGAIN) -> str | None:
    """One message for an error of the user or of the machine; None for a bug, whose traceback is needed.

    A constructor that ``instantiate`` calls may raise any error, since its arguments are the user's.
    """
    if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        key = re.search(r"full_key: (\S+)", str(error))
        own = message_of(error.__cause__, again)
        return own or f"{key[1] if key else 'the config'}: {_with_type(error.__cause__)}"
    if explained := explain(error, again):
        return explained
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    ours = _is(error, "vistok.pretrained.WeightsUnavailable", "vistok.formats.exporters.parity.ParityError")
    if ours or isinstance(error, ValueError | OSError | ImportError):
        return (" ".join(str(error).split()) if isinstance(error, ImportError) else str(error)) or type(error).__name__
    return _with_type(error) if type(error).__module__.partition(".")[0] in OF_LIBRARIES else None


def _is(error: BaseException, *classes: str) -> bool:
    """True for an error of these classes or of classes derived from them; imports no module."""
    homes = [(sys.modules.get(module), name) for module, _, name in (path.rpartition(".") for path in classes)]
    return any(isinstance(error, getattr(home, name)) for home, name in homes if home is not None)


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def explain(error: BaseException, again: str = AGAIN) -> str | None:
    """One message for an error that comes from outside of the process; None for all others.

    These are: too little memory, a loader process that was killed or does not answer, another rank that has ended or
    does not answer, a full disk.

    Args:
        error: The error.
        again: Advice for continuing.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {text}; once there is room {again}"
    if isinstance(error, MemoryError):
        return f"out of memory: {text or 'the process was refused more'}; {MEMORY}"
    lost = _is(error, "torch.distributed.DistError")
    if not lost and not isinstance(error, RuntimeError):
        return None
    if _is(error, "torch.OutOfMemoryError") or "DefaultCPUAllocator: can't allocate memory" in text:
        return f"out of memory: {text}; {MEMORY}"
    if "DataLoader worker" in text and ("is killed by signal" in text or "exited unexpectedly" in text):
        return f"a process that reads images is gone, killed by hand or for want of memory: {text}; {again}"
    if "DataLoader timed out" in text:
        return f"no batch of images came within data.timeout (--timeout): {text}; is the storage there? {again}"
    if lost or LOST.search(text):
        what = "did not answer within trainer.strategy.timeout" if LATE.search(text) else "is gone"
        return f"another process of this run {what}, its own message says why: {text}; {again}"
    return None
