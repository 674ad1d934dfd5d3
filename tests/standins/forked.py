"""A ``python`` whose processes are forked from one that has imported everything, for tests that start processes.

``forked.py serve DESCRIPTOR`` imports, then listens on a socket and forks a child for each request. ``forked.py ask
SOCKET WORDS`` stands where the interpreter would: its words, environment, folder and standard streams go to the child,
signals too, and it ends as the child does. The child's ``sys.executable`` asks as well, so that whatever a launcher
starts is forked too. What needs an interpreter of its own, such as one with other options, gets it.

Only the modules that both need are imported here at once: asking is to be quick.
"""

import marshal
import os
import signal
import socket
import sys
from contextlib import suppress

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
TOKENIZERS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tokenizers")
IMPORTED = (  # beside vistok's own modules
    "hydra", "pytorch_lightning.strategies", "torch.distributed.run", "submitit",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher", "lpips", "matplotlib.figure", "einops._torch_specific",
    "skimage.data._fetchers", "skimage.exposure", "skimage.io", "skimage.transform", "skimage.util", "imageio.v3",
    "tifffile",
)  # fmt: skip
SET_BY_IMPORTS = {}
VARIABLES = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}  # any other of Python's acts on its start
OWN_START = "submitit.local._local"  # a process whose number, which its parent sees, is the name of its job


def ask(address, executable, *words):
    """Have a process forked, hand signals on to it, and end as it ends."""
    unbuffered, words = words[:1] == ("-u",), words[words[:1] == ("-u",) :]
    known = words[:1] in (("-c",), ("-m",)) and len(words) > 1 or os.path.isfile("".join(words[:1]))
    others = {name for name in os.environ if name.startswith("PYTHON")} - VARIABLES
    if not known or others or words[1:2] == (OWN_START,):
        os.execv(sys.executable, [sys.executable, *["-u"] * unbuffered, *words])
    os.umask(umask := os.umask(0))
    leads = os.getpgrp() == os.getpid()  # then a signal is one for the group, as torchrun sends them
    ignored = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
    request = marshal.dumps({
        "words": words, "variables": dict(os.environ), "folder": os.getcwd(), "umask": umask, "leads": leads,
        "ignored": [int(number) for number in ignored], "executable": executable,
        "unbuffered": unbuffered or bool(os.environ.get("PYTHONUNBUFFERED")),
    })  # fmt: skip
    child, early = 0, []

    def forward(number, frame):
        if not child:  # it may run already, and whoever sends the signal have seen it
            early.append(number)
            return
        with suppress(ProcessLookupError):
            (os.killpg if leads else os.kill)(child, number)

    for number in set(FORWARDED) - set(ignored):
        signal.signal(number, forward)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [len(request).to_bytes(4, "little")], [0, 1, 2])
    connection.sendall(request)
    child = number_from(connection)
    for number in early:
        forward(number, None)
    end_with(number_from(connection))


def number_from(connection):
    """The next whole number that the other side sends."""
    return int.from_bytes(received(connection, 4), "little", signed=True)


def received(connection, size):
    """So many bytes of the other side."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("the other side of the socket is gone")
        data += part
    return data


def serve(descriptor):
    """Fork a child for each request until the tests are over; returns in these children, with what to run."""
    import gc
    import glob
    import selectors
    import threading

    listening = socket.socket(fileno=int(descriptor))
    parent, children = os.getppid(), {}  # connection: pid, whether it leads
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    former = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())
    selector = selectors.DefaultSelector()
    for file in (listening, woken, sys.stdin):
        selector.register(file, selectors.EVENT_READ)
    assert threading.active_count() == 1 and len(glob.glob("/proc/self/task/*")) < 2, "a process with threads"
    gc.collect()
    gc.freeze()  # pages of what is imported stay shared

    def end(connection, status=None):
        """Tell how the child ended, or see to it that it does."""
        child, leads = children.pop(connection)
        if status is None:
            with suppress(ProcessLookupError):
                (os.killpg if leads else os.kill)(child, signal.SIGKILL)
            os.waitpid(child, 0)
        else:
            with suppress(BrokenPipeError):
                connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
        selector.unregister(connection)
        connection.close()

    while True:
        ready = [key.fileobj for key, _ in selector.select(timeout=1)]
        if sys.stdin in ready or os.getppid() != parent:
            for connection in list(children):
                end(connection)
            os._exit(0)
        if woken in ready:
            woken.recv(4096)
        for connection, (child, _) in list(children.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                end(connection, status)
            elif connection in ready:  # killed
                end(connection)
        if listening not in ready:
            continue
        connection, _ = listening.accept()
        try:
            size, streams, *_ = socket.recv_fds(connection, 4, 3)
            request = marshal.loads(received(connection, int.from_bytes(size, "little")))
        except EOFError:
            connection.close()
            continue
        child = os.fork()
        if child:
            for stream in streams:
                os.close(stream)
            children[connection] = child, request["leads"]
            selector.register(connection, selectors.EVENT_READ)
            continue
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, former)
        selector.close()
        for file in (listening, woken, waker, *children):
            file.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        be_fresh(request)
        connection.sendall(os.getpid().to_bytes(4, "little"))
        connection.close()
        return request["words"]


def be_fresh(request):
    """Make of this process what a new interpreter with that environment would be after its imports."""
    import io
    import logging
    import types

    import numpy as np
    import torch
    from lightning_fabric.utilities import rank_zero

    for number in FORWARDED:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else default)
    os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(SET_BY_IMPORTS | request["variables"])
    sys.executable = request["executable"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        former, unbuffered = getattr(sys, name), number and request["unbuffered"]
        raw = os.fdopen(number, "wb" if number else "rb", 0 if unbuffered else -1, closefd=False)
        lines = name == "stderr" or raw.isatty()
        stream = io.TextIOWrapper(
            raw, former.encoding, former.errors, "\n" if number else None, lines, bool(unbuffered)
        )
        stream.mode = "w" if number else "r"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    np.random.seed()  # the module random does so itself
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # which Lightning reads when it is imported

    class Console(logging.Handler):
        def emit(self, record):
            root = logging.getLogger()
            (root if root.handlers else logging.StreamHandler()).handle(record)

    for name in ("lightning_fabric", "pytorch_lightning"):  # which ask for handlers of the root when they are imported
        logging.getLogger(name).handlers = [Console()]
    sys.modules["__main__"] = types.ModuleType("__main__")


def run(words):
    """Execute a script, ``-c PROGRAM`` or ``-m MODULE`` as ``__main__``."""
    import importlib.machinery
    import runpy

    main = sys.modules["__main__"].__dict__
    sys.path[:0] = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if words[0] == "-m":
        sys.argv, name = list(words[:1] + words[2:]), words[1]
        sys.path.insert(0, os.getcwd())
        if not hasattr(sys.modules.get(name), "__path__"):
            sys.modules.pop(name, None)
        runpy._run_module_as_main(name)
        return
    if words[0] == "-c":
        sys.argv, source, file = list(words[:1] + words[2:]), words[1], "<string>"
        sys.path.insert(0, "")
        main["__loader__"] = importlib.machinery.BuiltinImporter
    else:
        sys.argv, file = list(words), os.path.abspath(words[0])
        with open(file, "rb") as script:
            source = script.read()
        sys.path.insert(0, os.path.dirname(os.path.realpath(file)))
        main["__loader__"] = importlib.machinery.SourceFileLoader("__main__", file)
        main["__file__"] = file
    exec(compile(source, file, "exec"), main)


def warm_up():
    """Import what runs, evaluations and launchers import on their way."""
    import importlib
    import pkgutil

    before = dict(os.environ)
    sys.path.insert(0, TOKENIZERS)
    import vistok

    own = [module.name for module in pkgutil.walk_packages(vistok.__path__, "vistok.")]
    for name in (*IMPORTED, *own):
        if name != "vistok.__main__":
            importlib.import_module(name)
    sys.path.remove(TOKENIZERS)
    SET_BY_IMPORTS.update(dict(os.environ.items() - before.items()))


def main():
    """The one or the other; in a forked child, what was asked for, as if there were nothing else here."""
    role, *words = sys.argv[1:]
    if role == "ask":
        ask(*words)
    sys.path.pop(0)  # where this file is
    warm_up()
    words, status = serve(*words), 0
    try:
        run(words)
    except SystemExit as ended:
        status = 0 if ended.code is None else ended.code
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        traceback = error.__traceback__
        while traceback and traceback.tb_frame.f_code.co_filename == __file__:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    finish(status)


def finish(status):
    """End as an interpreter does, but leave what was imported as it is: to take it apart is a matter of seconds."""
    import atexit
    import gc
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    end_with(status)


def end_with(status):
    """Exit with a status, or die of the signal whose negative it is."""
    if status < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if status not in (-signal.SIGKILL, -signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
