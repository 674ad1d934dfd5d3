"""Files and values that one process of a node makes for all processes of the launch there, and only once.

They lie in the folder for temporary files (``TMPDIR``), in a folder of the launch that the first process removes when
it ends. The others wait for them as long as the first process lives.
"""

import atexit
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import filelock

from vistok.distributed.node import MADE_IN, is_child, peer
from vistok.processes.patience import PATIENCE

LOCK = ".lock"  # held by the first process while it lives
ABANDONED = 60.0  # seconds after which a folder whose lock nobody holds counts as left by a process that was killed
POLL = 0.05  # seconds
_own: dict[Path, int] = {}  # file descriptor of the lock of each folder of this process


def node_file(name: str, make: Callable[[Path], object]) -> Path:
    """File that the first process of this node makes; the others wait for it.

    A process without others makes it anew at each call; one of several only once, so that all have the same file.

    Args:
        name: Text that tells the file from others.
        make: Writes the file to a path. A ``ValueError`` or ``RuntimeError`` is raised in all processes.

    Raises:
        ValueError: The first process has not begun within ``PATIENCE``, or ended without the file; or it cannot be
            written.
    """
    key = blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    here = peer()
    if here is not None:
        folder = _root() / here.launch
        return _made(folder, key, make, anew=False) if here.first else _awaited(folder, key)
    if is_child() and (known := Path(os.environ[MADE_IN]) / key).exists():
        return known
    folder = next(iter(_own), None) or _root() / secrets.token_hex(16)
    path = _made(folder, key, make, anew=True)
    os.environ[MADE_IN] = str(folder)
    return path


def node_value(name: str, make: Callable[[], Any]) -> Any:
    """Value that the first process of this node computes, as ``node_file`` has files. It is JSON: lists for tuples."""
    path = node_file(f"value {name}", lambda path: path.write_text(json.dumps(make())))
    return json.loads(path.read_text())


def _made(folder: Path, key: str, make: Callable[[Path], object], anew: bool) -> Path:
    """File in this process's own folder."""
    path, partial = folder / key, folder / f"{key}.partial"
    try:
        if folder not in _own:
            _open(folder)
        if anew or not path.exists():
            make(partial)
            os.replace(partial, path)
    except (ValueError, RuntimeError) as error:
        with suppress(OSError):
            partial.write_text(str(error))
            os.replace(partial, folder / f"{key}.error")
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; TMPDIR names another folder") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _awaited(folder: Path, key: str) -> Path:
    """File in the folder of another process."""
    path, failed = folder / key, folder / f"{key}.error"
    began, until = False, time.monotonic() + PATIENCE
    while not path.exists():
        if failed.exists():
            raise ValueError(failed.read_text())
        if _lives(folder):
            began = True
        elif began and not path.exists() and not failed.exists():
            raise ValueError("the first process of this node ended while this one waited for it; its message says why")
        elif not began and time.monotonic() > until:
            raise ValueError(
                f"the first process of this node made no {folder} within {PATIENCE:.0f} s: TMPDIR must be one folder "
                "for all processes of a node"
            )
        time.sleep(POLL)
    return path


def _open(folder: Path) -> None:
    """Creates the folder and holds its lock until this process ends."""
    for other in folder.parent.iterdir():
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > ABANDONED and not _lives(other):
                shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _own[folder] = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    with suppress(OSError):  # a file system without locks
        filelock.lock_descriptor(_own[folder])


def _lives(folder: Path) -> bool:
    """True if a process holds the lock of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:
        return True  # unknown
    finally:
        os.close(descriptor)


def _root() -> Path:
    """Folder of all launches, of this user alone."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"vistok-launches-{user}"
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if hasattr(os, "getuid") and root.lstat().st_uid != user:
        raise ValueError(f"{root} belongs to another user; TMPDIR names another folder")
    return root


@atexit.register
def _remove() -> None:
    """Removes this process's folders; maps of their files stay valid."""
    while _own:
        folder, descriptor = _own.popitem()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _close_in_child() -> None:
    """Closes the locks in a forked child, which may outlive its parent and does not own the folders."""
    while _own:
        os.close(_own.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
