#!/usr/bin/env python3
"""A stand-in for SLURM on one machine: ``sbatch``, ``srun``, ``scontrol`` and ``sacct``, by the name it is called.

Jobs run at once, tasks as processes here with the variables that SLURM gives them. ``SLURM_STANDIN`` is a folder of its
own. What it does as SLURM does: arrays, ``srun``'s tasks, outputs and exit status, signals that ``srun`` passes to its
tasks, ``scontrol requeue``, which ends a job's processes and runs its script again. Queues, limits, nodes it has not.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HOME = Path(os.environ["SLURM_STANDIN"])


def options(lines):
    """``--key=value`` words to a dict; a bare ``--key`` is True."""
    found = {}
    for word in lines:
        key, has_value, value = word.removeprefix("--").partition("=")
        found[key] = value if has_value else True
    return found


def sbatch(words):
    """Number the job, run it in the background, and say its number."""
    given = [word for word in words if word.startswith("--")]
    script, *arguments = [word for word in words if not word.startswith("--")]
    headers = re.findall(r"^#SBATCH (--.*?)(?:[ \t]+#.*)?$", Path(script).read_text(), re.MULTILINE)
    asked = options([*(shlex.split(header)[0] for header in headers), *given])
    number = 1000 + len(list(HOME.glob("*.job")))
    (HOME / f"{number}.job").write_text(repr(asked))
    first, _, last = str(asked.get("array", "")).partition("%")[0].partition("-")
    tasks = [None] if not first else range(int(first), int(last or first) + 1)
    per_node, nodes = int(asked.get("ntasks-per-node", 1)), int(asked.get("nodes", 1))
    for task in tasks:
        name = str(number) if task is None else f"{number}_{task}"
        variables = {
            "SLURM_JOB_ID": str(number if task is None else number + task),
            "SLURM_NNODES": str(nodes), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(per_node),
            "SLURM_NTASKS": str(per_node * nodes), "SLURM_JOB_NODELIST": "localhost", "SLURM_NODELIST": "localhost",
            "SLURM_JOB_NAME": str(asked.get("job-name", "job")), "SLURM_STANDIN_JOB": name,
        }  # fmt: skip
        if task is not None:
            variables |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        output = str(asked.get("output", f"slurm-{name}.out")).replace("%j", name)
        output = output.replace("%A", str(number)).replace("%a", str(task)).replace("%t", "0")
        subprocess.Popen(
            [sys.executable, __file__, "job", script, output, *arguments],
            env={**os.environ, **variables}, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print(f"Submitted batch job {number}")


def job(words):
    """Run a job's script, again if it was requeued, and write down how it ended."""
    script, output, *arguments = words
    name = os.environ["SLURM_STANDIN_JOB"]
    for restart in range(20):
        variables = {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
        with open(output, "ab") as file:
            running = subprocess.Popen(
                ["bash", script, *arguments], env={**os.environ, **variables}, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        (HOME / f"{name}.pid").write_text(str(running.pid))
        status = running.wait()
        try:
            (HOME / f"{name}.requeue").unlink()
        except FileNotFoundError:
            (HOME / f"{name}.status").write_text(str(status))
            return


def srun(words):
    """Run the command as tasks; status is the largest of theirs."""
    flags = {}
    while words[0].startswith("--"):
        word = words.pop(0)
        key, has_value, value = word.partition("=")
        flags[key] = value if has_value else words.pop(0) if key in ("--output", "--error") else True
    count = int(os.environ["SLURM_NTASKS"])
    tasks = []
    for rank in range(count):
        streams = {}
        for flag, stream in (("--output", "stdout"), ("--error", "stderr")):
            if flag in flags:
                path = flags[flag].replace("%j", os.environ["SLURM_STANDIN_JOB"]).replace("%t", str(rank))
                path = path.replace("%A", os.environ.get("SLURM_ARRAY_JOB_ID", ""))
                path = path.replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", ""))
                streams[stream] = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        if "stdout" in streams:
            streams.setdefault("stderr", subprocess.STDOUT)
        ids = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % int(os.environ["SLURM_NTASKS_PER_NODE"])}
        ids["SLURM_NODEID"] = rank // int(os.environ["SLURM_NTASKS_PER_NODE"])
        environment = {**os.environ, **{key: str(value) for key, value in ids.items()}}
        tasks.append(subprocess.Popen(words, env=environment, **streams))

    def forward(number, frame):
        for task in tasks:
            if task.poll() is None:
                task.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
    (HOME / f"{os.environ['SLURM_STANDIN_JOB']}.srun").write_text(str(os.getpid()))
    statuses = [task.wait() for task in tasks]
    sys.exit(max(128 - status if status < 0 else status for status in statuses))


def scontrol(words):
    if words[:2] == ["show", "hostnames"]:
        print("localhost")
        return
    assert words[0] == "requeue", words
    name = os.environ["SLURM_STANDIN_JOB"] if "_" not in words[1] else words[1]
    group = int((HOME / f"{name}.pid").read_text())
    (HOME / f"{name}.requeue").touch()
    if os.fork():
        return
    os.setsid()  # SLURM ends what is left of the job: here a moment later, as there
    time.sleep(2)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def sacct(words):
    print("JobID|State|NodeList")
    for pid in HOME.glob("*.pid"):
        state = "COMPLETED" if pid.with_suffix(".status").exists() else "RUNNING"
        print(f"{pid.stem}|{state}|localhost")


COMMANDS = {function.__name__: function for function in (sbatch, job, srun, scontrol, sacct)}
name = Path(sys.argv[0]).name
arguments = sys.argv[1:]
if name not in COMMANDS:
    name, *arguments = arguments
COMMANDS[name](arguments)
