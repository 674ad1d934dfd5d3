"""Failures of clusters, injected into a training run: it must continue, or stop with a reason, and lose nothing.

    python benchmarks/soak.py [--runs 3] [--seed 0] [--only NAME ...] [--out DIR]

A tiny tokenizer trains with 2 processes and 2 workers in each on tar shards. Its head, losses, precision and batches of
an update are drawn, anew for each round of faults, as ``resume.py`` draws them. In each run one thing goes wrong, at a
random update. Either the run goes on by itself, or the command stops with the message that the docs state, and the same
command again ends it. What it leaves must then be what a run without faults leaves, to the last bit, where no image or
batch was taken from it. Prints a table and writes ``DIR/soak.json``; exit status 1 if anything was not as it should be.
"""

import argparse
import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from resume import CHOICES, ROOT, WORDS, differences, draw, make_data, updates_of

DRAWN = ("head", "on_collapse", "loss", "accumulate", "average", "precision")  # of what resume.py draws
UPDATES, SAVE_EVERY = 32, 4
OURS = [f"optim.updates={UPDATES}", f"log.save_every={SAVE_EVERY}", "log.val_every=16", "optim.adversarial_start=12",
        "log.keep_checkpoints=2", "log.every=1", "data=shards", "data.block=8", "data.max_unreadable=1.0",
        "data.num_workers=2"]  # fmt: skip
DATA_TIMEOUT, RANK_TIMEOUT, PAUSE = 20, 45, 8  # seconds
RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
         f"data.timeout={DATA_TIMEOUT}", f"trainer.strategy.timeout.minutes={RANK_TIMEOUT / 60}"]  # fmt: skip
BOUND = RANK_TIMEOUT + 150  # seconds: the longest timeout, torchrun's 30 for ranks that do not end; on a busy machine
PATIENCE = 600  # seconds for a run without a fault
NAN = """
import os, runpy, sys
from vistok.training.module import LitTokenizer
step = LitTokenizer.training_step
def spoiled(self, batch, index):
    spoil = self.batches == int(os.environ["SOAK_BATCH"]) and os.environ["RANK"] == "1"
    return step(self, batch._replace(images=batch.images * float("nan")) if spoil else batch, index)
LitTokenizer.training_step = spoiled
sys.argv[0] = os.environ["SOAK_TRAIN"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Run:
    """The command, its processes and what it has written.

    Args:
        folder: A new one: for the run, its log, and its own copy of the shards.
        data: The shards.
        setting: What was drawn: words of the command line.
        urls: Of the training shards, with the folder of the copy as ``{0}``.
        program: Run in place of ``train.py``.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        setting: list[str],
        urls: str = "{0}/train/*.tar",
        program: Path | None = None,
    ):
        folder.mkdir(parents=True)
        for part in ("train", "val"):
            shutil.copytree(data / part, folder / part)
        self.folder, self.run, self.log = folder, folder / "run", folder / "log.txt"
        self.setting = setting
        self.urls, self.program, self.variables = urls, program or ROOT / "train.py", {}
        self.process: subprocess.Popen | None = None
        self.began = 0.0

    def start(self) -> None:
        urls = ["pipe:" + self.urls[5:].format(path) for path in sorted(self.folder.glob("train/*.tar"))]
        urls = urls if self.urls.startswith("pipe:") else [self.urls.format(self.folder)]
        words = [*WORDS, *self.setting, *OURS, *RANKS, "data.urls=[" + ",".join(f'"{url}"' for url in urls) + "]"]
        words += [f"data.val_urls={self.folder}/val/*.tar", f"run.dir={self.run}", "run.resume=auto"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1", **self.variables}
        self.began = time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*launcher, str(self.program), *words], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def updates(self) -> int:
        """The last update that this attempt has logged."""
        path = self.run / "metrics.csv"
        if not path.exists() or path.stat().st_mtime < self.began:
            return 0
        return max(logged(path), default=0)

    def until_update(self, update: int) -> None:
        end = time.time() + PATIENCE
        while self.updates() < update:
            if self.process.poll() is not None or time.time() > end:
                raise RuntimeError(f"it did not reach update {update}, see {self.log}")
            time.sleep(0.01)

    def until_end(self, seconds: float) -> int | None:
        """The exit status; None, and everything killed, if there is none after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_all(self.run)
            self.process.wait()
            return None

    def ranks(self) -> list[int]:
        """The ranks' processes: torchrun's children."""
        return sorted(children(self.process.pid))

    def workers(self) -> list[int]:
        """The loader processes of all ranks."""
        ours = set(processes_of(self.run))
        return sorted(worker for rank in self.ranks() for worker in children(rank) if worker in ours)

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.log.read_text(errors="replace")) is not None


class Fault(NamedTuple):
    """One thing that goes wrong."""

    inject: Callable[[Run, np.random.Generator], None]
    stops: bool  # whether the command has to be given again
    message: str | None  # what it says, a pattern
    same: bool = True  # whether the weights must end as without the fault
    mend: Callable[[Run], None] = lambda run: None  # before the command is given again
    prepare: Callable[[Run], None] = lambda run: None  # before it starts
    urls: str = "{0}/train/*.tar"
    latest: int = UPDATES - 8  # the last update at which it may come: later it would not be met with


def kill_all(run: Path) -> None:
    """SIGKILL for launcher, ranks and their workers: all have the run's folder on their command line."""
    while alive := list(processes_of(run)):
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def processes_of(run: Path) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"run.dir={run}".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                yield int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


def children(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def logged(path: Path) -> list[int]:
    with path.open(errors="replace") as file:
        return [int(float(row["updates"])) for row in csv.DictReader(file) if row.get("updates")]


def kill_rank(run: Run, rng: np.random.Generator) -> None:
    os.kill(int(rng.choice(run.ranks())), signal.SIGKILL)


def kill_worker(run: Run, rng: np.random.Generator) -> None:
    os.kill(int(rng.choice(run.workers())), signal.SIGKILL)


def stop_rank_a_while(run: Run, rng: np.random.Generator) -> None:
    rank = int(rng.choice(run.ranks()))
    os.kill(rank, signal.SIGSTOP)
    time.sleep(PAUSE)
    os.kill(rank, signal.SIGCONT)


def stop_rank(run: Run, rng: np.random.Generator) -> None:
    os.kill(int(rng.choice(run.ranks())), signal.SIGSTOP)


def stop_workers(run: Run, rng: np.random.Generator) -> None:
    """All of one rank: a batch of each may lie ready."""
    ours = set(processes_of(run.run))
    for worker in set(children(int(rng.choice(run.ranks())))) & ours:
        os.kill(worker, signal.SIGSTOP)


def truncate_shards(run: Run, rng: np.random.Generator) -> None:
    for shard in run.folder.glob("train/*.tar"):
        os.truncate(shard, int(shard.stat().st_size * rng.uniform(0.2, 0.8)))


def fill_disk(run: Run, rng: np.random.Generator) -> None:
    if not run.run.is_mount():
        for rank in run.ranks():
            resource.prlimit(rank, resource.RLIMIT_FSIZE, (2**17, resource.RLIM_INFINITY))
        return
    with (run.run / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**14))
        except OSError:
            pass


def small_disk(run: Run) -> None:
    """A file system of 32 MiB for the run's folder, where we may mount one."""
    run.run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(run.run)], stderr=subprocess.DEVNULL)


def corrupt_checkpoint(run: Run, rng: np.random.Generator) -> None:
    kill_all(run.run)
    last = run.run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    first = int(rng.integers(len(content) // 4, len(content) // 2))
    content[first : first + 1000] = rng.bytes(1000)
    last.write_bytes(content)


def silence_storage(run: Run, rng: np.random.Generator) -> None:
    (run.folder / "silent").touch()


def nothing(run: Run, rng: np.random.Generator) -> None:
    """The fault is there from the beginning."""


SLOW = "pipe:sleep 3; cat {0}"
SILENT = "pipe:test -e $(dirname {0})/../silent && exec sleep 300; cat {0}"
FAULTS = {
    "kill -9 of a rank": Fault(kill_rank, True, r"another process of this run is gone|Signal 9 \(SIGKILL\)"),
    "kill -9 of a loader worker": Fault(kill_worker, True, r"error: a process that reads images is gone"),
    f"SIGSTOP of a rank for {PAUSE} s": Fault(stop_rank_a_while, False, None),
    "SIGSTOP of a rank for good": Fault(stop_rank, True, r"did not answer within trainer.strategy.timeout"),
    "SIGSTOP of a rank's workers for good": Fault(
        stop_workers, True, r"error: (no batch of images came within data.timeout|.*within trainer.strategy.timeout)"
    ),
    "truncated shards": Fault(
        truncate_shards, False, r"skipped: \S+\.tar: ReadError: .*(cut short|unexpected end)", same=False, latest=8
    ),
    "NaN batch on one rank": Fault(nothing, False, r"update \d+ was left out: .* not finite", same=False),
    "full disk": Fault(
        fill_disk, True, r"error: (the disk is full|the checkpoint \S+ was not written, \d+ MiB are free)",
        prepare=small_disk, mend=lambda run: (run.run / "filler").unlink(missing_ok=True),
    ),
    "corrupt last checkpoint": Fault(corrupt_checkpoint, True, r"last.ckpt is damaged and skipped"),
    "slow storage, 3 s for each shard": Fault(nothing, False, None, urls=SLOW),
    "silent storage": Fault(
        silence_storage, True, r"error: no batch of images came within data.timeout", urls=SILENT,
        mend=lambda run: (run.folder / "silent").unlink(),
    ),
}  # fmt: skip


@contextmanager
def cleared(run: Run) -> Iterator[Run]:
    """Whatever happens, no process, mount or stopped rank stays behind."""
    try:
        yield run
    finally:
        kill_all(run.run)
        if run.run.is_mount():
            subprocess.run(["umount", "--lazy", str(run.run)], check=True)


def drawn_words(setting: dict[str, str]) -> list[str]:
    """The words of what this script draws; the trainer of several processes would bring another precision."""
    words = [word for kind in DRAWN for word in CHOICES[kind][setting[kind]]]
    return words + ["speed=exact"] * (setting["precision"] == "float32")


def suffer(
    name: str, folder: Path, data: Path, setting: list[str], whole: Path, rng: np.random.Generator
) -> dict[str, Any]:
    """One run with one fault, and what came of it."""
    fault, wrong = FAULTS[name], []
    update = int(rng.integers(min(2 * SAVE_EVERY + 1, fault.latest - 4), fault.latest + 1))
    program = None
    if name.startswith("NaN"):
        program = folder.with_suffix(".py")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(NAN)
    with cleared(Run(folder, data, setting, fault.urls, program)) as run:
        run.variables = {"SOAK_BATCH": str(update), "SOAK_TRAIN": str(ROOT / "train.py")}
        fault.prepare(run)
        run.start()
        run.until_update(update)
        fault.inject(run, rng)
        injected, noticed = time.time(), None
        status, end = None, injected + (BOUND if fault.stops else PATIENCE)
        while status is None and time.time() < end:
            if noticed is None and fault.message and not fault.stops and run.says(fault.message):
                noticed = time.time()
            time.sleep(0.02)
            status = run.process.poll()
        if status is None:
            wrong.append(f"no end within {end - injected:.0f} s")
            kill_all(run.run)
        lost = 0
        if fault.stops:
            noticed = time.time() if status is not None else None
            wrong += ["it ended with status 0"] if status == 0 else []
            left = [process for process in processes_of(run.run) if not is_zombie(process)]
            wrong += [f"{len(left)} processes stay behind"] if left else []
            kill_all(run.run)
            fault.mend(run)
            reached, saved = run.updates(), newest_whole(run.run)
            lost = reached - saved
            run.start()
            status = run.until_end(PATIENCE)
        if fault.message and not run.says(fault.message):
            wrong.append("the message did not come")
        if status != 0:
            wrong.append(f"the last command ended with {status}")
        else:
            wrong += verdict(run.run, whole, fault.same)
        if not fault.message:
            noticed = None
        result = {
            "fault": name, "setting": setting, "update": update, "lost": lost, "wrong": wrong, "log": str(run.log),
            "noticed": None if noticed is None else round(noticed - injected, 1),
        }  # fmt: skip
    return result


def is_zombie(process: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True


def newest_whole(run: Path) -> int:
    """Updates in the newest checkpoint that can be read."""
    try:
        return updates_of(run)
    except (RuntimeError, OSError, ValueError):
        return torch.load(run / "checkpoints" / "last.1.ckpt", weights_only=True)["updates"]


def verdict(run: Path, whole: Path, same: bool) -> list[str]:
    """Errors of a finished run: weights, or updates that no log has."""
    wrong = differences(whole, run)[:3] if same else []
    if updates_of(run) != UPDATES:
        wrong.append(f"it has {updates_of(run)} updates")
    return wrong


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row for each fault."""
    heads = ["fault", "runs", "recovered", "updates made again", "seconds to notice", "what it does"]
    lines = [heads, ["---"] * len(heads)]
    for name, fault in FAULTS.items():
        of = [result for result in results if result["fault"] == name]
        if not of:
            continue
        times = [result["noticed"] for result in of if result["noticed"] is not None]
        shown = f"{min(times):.1f} to {max(times):.1f}" if times else "not noticed"
        does = "stops; the same command ends it" if fault.stops else "goes on"
        recovered = sum(not result["wrong"] for result in of)
        lines.append([name, len(of), recovered, sum(result["lost"] for result in of), shown, does])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=int, default=3, help="of each fault")
    words.add_argument("--seed", type=int, default=0, help="of the moments")
    words.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME", help="faults")
    words.add_argument("--out", help="a new folder for runs and results; else a temporary one")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(asked.out or temporary).resolve()
        make_data(out / "data")
        results = []
        for i, drawn in enumerate(draw(asked.runs, np.random.default_rng(asked.seed))):
            setting = drawn_words(drawn)
            whole = Run(out / f"whole-{i}", out / "data", setting)
            whole.start()
            if whole.until_end(PATIENCE) != 0:
                raise RuntimeError(f"the run without faults failed, see {whole.log}")
            for name in asked.only:
                rng = np.random.default_rng((asked.seed, i, list(FAULTS).index(name)))
                folder = out / f"{list(FAULTS).index(name):02d}-{i}"
                results.append(suffer(name, folder, out / "data", setting, whole.run, rng))
                (out / "soak.json").write_text(json.dumps(results, indent=2) + "\n")
                print(json.dumps(results[-1]), flush=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(table(results))
        print(f"{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of CPU time")
    sys.exit(any(result["wrong"] for result in results))


if __name__ == "__main__":
    main()
