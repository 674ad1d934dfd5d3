"""One process at a time writes to an output."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistok.processes import locks

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "out" / locks.NAME


def left_by(lock, machine, seconds_ago):
    """A lock file of a process elsewhere, or of one that was killed."""
    lock.parent.mkdir(exist_ok=True)
    about = {
        "machine": machine,
        "host": "node7",
        "pid": 4711,
        "since": "2026-01-01 10:00:00 UTC",
        "command": "train.py",
    }
    lock.write_text(json.dumps(about))
    then = time.time() - seconds_ago
    os.utime(lock, (then, then))


def test_the_second_is_told_who_holds_it_and_nothing_is_left(lock, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "a b"])
    with locks.held(lock, "out=X"):
        with pytest.raises(ValueError) as refused, locks.held(lock, "out=X", take_over=True):
            raise AssertionError("it was given twice")
        said = str(refused.value)
        assert said.startswith(f"out=X is in use by pid {os.getpid()} on ") and "since 2" in said
        assert "which runs train.py 'a b': wait" in said
        with locks.held(lock.with_name("other.lock"), "out=Y"):
            pass
    assert not lock.parent.exists()
    with locks.held(lock, "out=X"):
        pass


HOLDER = """
import os, sys, time
from pathlib import Path
from vistok.processes import locks
with locks.held(Path(sys.argv[1]), "out=X"):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_does_not_block_although_its_child_lives(lock):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers")}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE, text=True, env=environment)
    child = int(holder.stdout.readline())
    try:
        said = f"in use by pid {holder.pid} on .*: wait for it, or end it"
        with pytest.raises(ValueError, match=said), locks.held(lock, "out=X"):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with locks.held(lock, "out=X"):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)


def test_held_elsewhere_it_goes_by_the_heartbeat(lock, capsys):
    left_by(lock, "another machine", 30)
    with (
        pytest.raises(ValueError, match=r"pid 4711 on node7 .*heartbeat was (29|30|31) s ago, .* 120 s .* --take-over"),
        locks.held(lock, "out=X", option="--take-over"),
    ):
        pass
    with locks.held(lock, "out=X", take_over=True):
        assert "out=X is taken over from pid 4711 on node7" in capsys.readouterr().out
    left_by(lock, "another machine", locks.STALE + 1)
    with locks.held(lock, "out=X"):
        pass
    left_by(lock, locks.machine(), 1)  # killed on this machine
    with locks.held(lock, "out=X"):
        pass
    lock.write_text("not JSON \x1b[31m")
    with locks.held(lock, "out=X"):
        pass


def test_the_kernel_sees_a_holder_elsewhere(lock, monkeypatch):
    """As on NFS: it refuses the lock, and the holder may be gone without the server knowing."""
    with locks.held(lock, "out=X"):
        held = os.stat(lock).st_ino
        monkeypatch.setattr(locks, "machine", lambda: "this one")
        with pytest.raises(ValueError, match="its last heartbeat was 0 s ago"), locks.held(lock, "out=X"):
            pass
        with locks.held(lock, "out=X", take_over=True):
            assert os.stat(lock).st_ino != held
        assert not lock.exists()


def test_without_locks_in_the_kernel_the_heartbeat_decides(lock, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda descriptor: None)
    left_by(lock, locks.machine(), 1)
    with pytest.raises(ValueError, match="its last heartbeat was . s ago"), locks.held(lock, "out=X"):
        pass
    left_by(lock, locks.machine(), locks.STALE + 1)
    with locks.held(lock, "out=X"):
        pass


def test_the_heartbeat_and_its_loss(lock, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(locks, "BEAT", 0.02)
    monkeypatch.setattr(locks.os, "_exit", ended.append)
    with locks.held(lock, "out=X"):
        os.utime(lock, (0, 0))
        end = time.monotonic() + 20
        while os.stat(lock).st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert os.stat(lock).st_mtime > 0 and not ended
        lock.unlink()
        lock.write_text("somebody else's")
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
    assert ended[0] == 1 and "out=X was taken over by another process" in capsys.readouterr().err
    assert lock.read_text() == "somebody else's"


@pytest.mark.parametrize("folder", ["/proc/nothing", "/sys/nothing", "/etc/passwd/nothing"])
def test_what_cannot_be_written_to(folder):
    with pytest.raises(ValueError, match="^out=X: "), locks.held(Path(folder, locks.NAME), "out=X"):
        pass
