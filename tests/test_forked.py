"""The ``python`` that tests start processes with does what a new interpreter does (``tests/standins/forked.py``)."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, os, signal, sys, threading, time
print(sys.argv, os.getcwd(), os.environ["MARK"], os.umask(0), sys.path[:3], __name__, __file__)
print(__spec__ and __spec__.name)
print(sys.stdin.read(), file=sys.stderr)
print(sorted(set(globals()) - {"__annotations__", "__cached__"}), sys.modules["__main__"].sys is sys)
print([signal.getsignal(number) for number in (1, 2, 13, 15, 17)])
atexit.register(print, "at the end")
threading.Thread(target=lambda: time.sleep(0.1) or print("a thread")).start()
raise SystemExit(3)
"""


@pytest.mark.parametrize("words", [
    ["script.py", "a", "b c"],
    ["-m", "script", "-m", "x"],
    ["-c", "import sys; print(sys.argv, repr(sys.path[0])); sys.exit('a message')", "-c"],
    ["-c", "def f():\n    1 / 0\ntry:\n    f()\nexcept ValueError:\n    pass"],
    ["-c", "a b"],
    ["-m", "runpy"],
    ["-m", "nothing.at.all"],
    ["nothing.py"],
    ["-c", "raise KeyboardInterrupt"],
    ["-c", "import os; os.kill(os.getpid(), 9)"],
    ["-c", "import os; os.abort()"],
    ["-c", "import os; print('lost', end=''); os._exit(0)"],
    ["-u", "-c", "import os; print('said', end=''); os._exit(0)"],
    ["-W", "error", "-c", "import warnings; warnings.warn('an error')"],
])  # fmt: skip
def test_it_does_what_an_interpreter_does(python, tmp_path, words):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"MARK": "\udcff", "PYTHONPATH": f"relative:{tmp_path}", "PATH": os.environ["PATH"]}
    done = [
        subprocess.run(
            [executable, *words], cwd=tmp_path, env=environment, input=b"some words", capture_output=True, umask=0o27
        )
        for executable in (sys.executable, python)
    ]
    assert done[1].stdout == done[0].stdout
    assert done[1].stderr.replace(python.encode(), sys.executable.encode()) == done[0].stderr
    assert done[1].returncode == done[0].returncode


def test_what_is_started_from_there_is_forked_too(python):
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)'])"
    )
    assert subprocess.check_output([python, "-c", program], text=True) == "True\n"


WAITING = """
import os, signal, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"USR1\\n"))  # print may not interrupt itself
if not os.fork():
    os.write(1, b"%d\\n" % os.getpid())  # here, since a new process forgets signals that came before this line
time.sleep(60)
"""


@pytest.mark.parametrize("group", [False, True])
def test_signals_reach_it(python, group):
    """It alone, or the whole group where it leads one, which is then signalled as such."""
    send = os.killpg if group else os.kill
    process = subprocess.Popen([python, "-c", WAITING], stdout=subprocess.PIPE, text=True, start_new_session=group)
    other = int(process.stdout.readline())
    send(process.pid, signal.SIGUSR1)
    assert [process.stdout.readline() for _ in range(1 + group)] == ["USR1\n"] * (1 + group)
    send(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    if not group:
        os.kill(other, signal.SIGKILL)  # it lives
    assert process.communicate(timeout=60)[0] == ""
