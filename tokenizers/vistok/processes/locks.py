"""Locks that let one process at a time write to an output: a lock file that names its holder.

On one machine the kernel holds the lock, so that a killed process leaves no lock behind. Machines that share the
storage may not see the kernel's lock. They rely on the holder's heartbeat: the modification time of the lock file by
the storage's own clock.
"""

import errno
import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import filelock

from vistok.terminal import say, visible

NAME = ".lock"  # name of the lock file of a folder
BEAT, STALE = 15.0, 120.0  # seconds between heartbeats; seconds without one after which the holder counts as gone
UNKNOWN = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # errors of file systems without such locks
_descriptors: set[int] = set()  # file descriptors that hold locks


def beside(path: Path) -> Path:
    """Path of the lock file of a file, or of a folder that is renamed when it is complete."""
    return path.with_name(f".{path.name}{NAME}")


@contextmanager
def held(path: Path, what: str, take_over: bool = False, option: str = "") -> Iterator[None]:
    """Holds a lock while the block runs; the lock file is removed afterwards.

    Args:
        path: Path of the lock file. Its folder is created if it does not exist, and then removed at the end if empty.
        what: Description of the locked output, for messages.
        take_over: True takes the lock from a holder on another machine, regardless of its heartbeat.
        option: The user's option that sets ``take_over``, for messages; empty if there is none.

    Raises:
        ValueError: Another process holds the lock, or the folder is not writable.
    """
    try:
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path, what, take_over, option)
    except OSError as error:
        raise ValueError(f"{what}: {error.strerror}") from error
    _descriptors.add(descriptor)
    about, stop = _about(), threading.Event()
    heart = threading.Thread(target=_beat, args=(path, about, what, stop), daemon=True)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, about, 0)
        heart.start()
        yield
    finally:
        stop.set()
        if descriptor in _descriptors:  # else this is a forked child
            if heart.ident is not None:
                heart.join(timeout=1)  # the thread may be waiting for storage
            if _is_at(path, descriptor):
                path.unlink()
            _descriptors.discard(descriptor)
            os.close(descriptor)
            if made:
                with suppress(OSError):  # the folder is no longer empty
                    path.parent.rmdir()


@contextmanager
def held_for_all_ranks(path: Path, what: str, take_over: bool = False, option: str = "") -> Iterator[None]:
    """Holds a lock on rank 0 for all ranks, as ``held`` does; every rank raises if the lock is refused."""
    from vistok.distributed.collectives import gather_objects, rank_and_size

    with ExitStack() as stack:
        problem = None
        if rank_and_size()[0] == 0:
            try:
                stack.enter_context(held(path, what, take_over, option))
            except ValueError as error:
                problem = str(error)
        if problem := gather_objects(problem)[0]:
            raise ValueError(problem)
        yield


def holder(path: Path) -> str | None:
    """Process that holds a lock, for a message; None if no process does. The lock is not taken."""
    found = _read(path)
    if not found:
        return None
    who = "pid {pid} on {host} since {since}".format(**found)
    if found["machine"] != machine():
        return who if time.time() - path.stat().st_mtime < STALE else None
    descriptor = os.open(path, os.O_RDWR)
    try:
        return who if _lock(descriptor) is False else None
    finally:
        os.close(descriptor)


def machine() -> str:
    """Identifier of this machine since its last boot; containers share it, as they share kernel locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _about() -> bytes:
    held_by = {
        "machine": machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}",
        "token": secrets.token_hex(8),
    }
    return (json.dumps(held_by) + "\n").encode()


def _take(path: Path, what: str, take_over: bool, option: str) -> int:
    """Takes the lock; returns the file descriptor that holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            free = _lock(descriptor)
            if free is False:
                time.sleep(0.2)  # time for the holder to write its name
            if _is_at(path, descriptor):  # else the holder has removed the file meanwhile
                holder = _read(path)
                here = holder.get("machine") == machine()
                if holder and not (free and here) or free is False:
                    _refuse_living(path, holder, here and free is False, what, take_over, option)
                if free is not False:
                    return descriptor
                path.unlink()  # the holder, on another machine, notices the loss at its next heartbeat
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Returns True if the kernel grants the lock, False if another process holds it, None without support for locks."""
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in UNKNOWN:
            return None
        raise


def _refuse_living(path: Path, holder: dict, here: bool, what: str, take_over: bool, option: str) -> None:
    """Raises ``ValueError``, unless the holder is on another machine and silent for long or to be replaced."""
    with tempfile.TemporaryFile(dir=path.parent) as probe:  # the storage's clock, not this machine's
        silent = max(0.0, os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime)
    who = "pid {pid} on {host} since {since}, which runs {command}".format(**holder) if holder else "another process"
    if here:
        raise ValueError(f"{what} is in use by {who}: wait for it, or end it")
    if silent < STALE and not take_over:
        at_once = f"; {option} takes over at once" if option else ""
        raise ValueError(
            f"{what} is in use by {who}: its last heartbeat was {silent:.0f} s ago, and after {STALE:.0f} s without "
            f"one it counts as gone{at_once}"
        )
    say(f"{what} is taken over from {who}, whose last heartbeat was {silent:.0f} s ago", "yellow")


def _read(path: Path) -> dict:
    """Reads the holder from a lock file; returns an empty dict if the file does not name one."""
    try:
        holder = json.loads(path.read_bytes()[:10_000])
    except (OSError, ValueError):
        return {}
    known = isinstance(holder, dict) and {"machine", "host", "pid", "since", "command"} <= set(holder)
    return {name: visible(str(value)) for name, value in holder.items()} if known else {}


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _beat(path: Path, about: bytes, what: str, stop: threading.Event) -> None:
    """Updates the heartbeat at intervals; ends this process if another one has taken its lock."""
    while not stop.wait(BEAT):
        try:
            found = path.read_bytes()
            os.utime(path)
        except OSError:  # the storage is away, or the folder is gone
            continue
        if found not in (about, b"") and not stop.is_set():
            sys.stderr.write(
                f"error: {what} was taken over by another process; this one ends and writes nothing more\n"
            )
            sys.stderr.flush()
            os._exit(1)


def _close_in_child() -> None:
    """Closes the locks in a forked child, which may outlive its parent: any copy of a descriptor holds the lock."""
    while _descriptors:
        os.close(_descriptors.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
