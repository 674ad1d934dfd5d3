"""Runs killed again and again, against runs never killed: do they end with the same weights, to the last bit?

    python benchmarks/resume.py [--kills 20] [--seed 0] [--only NAME ...] [--out DIR]

Settings: a folder or shards, 1 or 2 processes. In each a tiny tokenizer is trained once without interruption, then with
``ckpt=auto`` and SIGKILL for all processes at random moments until there were so many kills, and then to the end.
Prints a table and writes ``DIR/resume.json``; exit status 1 if a setting does not end equal.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from vistok import convert

ROOT = Path(__file__).parent.parent
UPDATES, SAVE_EVERY, VAL_EVERY = 72, 2, 6
WORDS = [
    "backbone.encoder.channels=8", "image_size=32", "latent_dim=4", "codebook_size=64", "batch_size=2",
    "quantizer=vq_ema", "quantizer.restart=0.5", "quantizer.kmeans_updates=8", "ema_decay=0.9", "adversarial_start=24",
    "schedule.warmup=0", "augmentation.flip=true", "data.num_workers=2", "log_every=1", f"updates={UPDATES}",
    f"save_every={SAVE_EVERY}", f"val_every={VAL_EVERY}",
]  # fmt: skip
DATA = {
    "folder": ["data=folder", "data.root={0}/photos"],
    "shards": ["data=shards", "data.urls={0}/train/*.tar", "data.val_urls={0}/val/*.tar", "data.block=8"],
}
RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
SETTINGS = {f"{data}, {n} process{'es' * (n > 1)}": (data, n) for data in DATA for n in (1, 2)}
PLACES = ("before the first checkpoint", "starting again", "training", "writing", "validating")
STARTING = 0.2  # share of the kills that come before an attempt's first update
PATIENCE = 300  # seconds for an attempt


class Attempt(NamedTuple):
    """One start of the command."""

    status: int  # -9 if it was killed
    began: float  # time of day
    first: float | None  # seconds to the first update
    seconds: float  # to the end


def make_data(folder: Path) -> None:
    """48 smooth random pictures to train on and 8 held out, PNG and JPEG of several sizes; the same as shards."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 48), ("val", 8)):
        (folder / "photos" / part).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            size = tuple(rng.integers(40, 80, 2).tolist())
            coarse.resize(size, Image.Resampling.BICUBIC).save(
                folder / "photos" / part / f"{i:02d}.{'jpg' if i % 2 else 'png'}"
            )
        convert.main([str(folder / "photos" / part), str(folder / part), "--per-shard", "16"])


def command(setting: str, data: Path, run: Path) -> list[str]:
    kind, processes = SETTINGS[setting]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    words = [*WORDS, *(word.format(data) for word in DATA[kind]), *(RANKS if processes > 1 else [])]
    return [sys.executable, *launcher, str(ROOT / "train.py"), *words, f"run_dir={run}", "ckpt=auto"]


def attempt(words: list[str], run: Path, starting: float | None = None, training: float | None = None) -> Attempt:
    """Start the command and kill all of it so many seconds after its start, or after its first update; or neither."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    began, first = time.time(), None
    with run.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            now = time.time() - began
            if first is None and rows(run, began):
                first = now
            if starting is not None and now >= starting:
                break
            if training is not None and first is not None and now >= first + training:
                break
            if now > PATIENCE:
                break
            time.sleep(0.005)
        killed = process.poll() is None
        if killed:
            kill_all(run)
        status = process.wait()
    if killed and starting is None and training is None:
        raise RuntimeError(f"no end after {PATIENCE} seconds, see {run.with_suffix('.log')}")
    return Attempt(-signal.SIGKILL if killed else status, began, first, time.time() - began)


def kill_all(run: Path) -> None:
    """SIGKILL for launcher, ranks and their workers: all have the run's folder on their command line."""
    while alive := list(processes_of(run)):
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def processes_of(run: Path) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"run_dir={run}".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                yield int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


def rows(run: Path, since: float) -> list[dict[str, str]]:
    """What an attempt that began at ``since`` has logged."""
    path = run / "metrics.csv"
    try:
        if path.stat().st_mtime < since:
            return []
        with path.open() as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def updates_of(run: Path) -> int:
    """Updates in the newest checkpoint, 0 if there is none."""
    path = run / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True, mmap=True)["updates"] if path.exists() else 0


def where(run: Path, began: float) -> tuple[str, int]:
    """Where a kill fell, by what it left behind, and the updates that it cost."""
    saved, logged = updates_of(run), rows(run, began)
    reached = max((int(float(row["updates"])) for row in logged if row["updates"]), default=0)
    lost = max(0, reached - saved)
    partial = run / "checkpoints" / ".last.ckpt.partial"
    if partial.exists() and partial.stat().st_mtime >= began:
        return "writing", lost
    if not saved:
        return "before the first checkpoint", lost
    if not logged:
        return "starting again", lost
    validated = any(row.get("val/psnr") for row in logged[-1:])
    return "training" if reached % VAL_EVERY or validated else "validating", lost


def soak(setting: str, data: Path, folder: Path, kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """One setting: the whole run, the killed one, and what came of it."""
    whole, killed = folder / "whole", folder / "killed"
    folder.mkdir(parents=True)
    reference = attempt(command(setting, data, whole), whole)
    if reference.status:
        raise RuntimeError(f"the run without kills ended with {reference.status}, see {whole.with_suffix('.log')}")
    per_update = (reference.seconds - reference.first) / UPDATES
    words, fell, started = command(setting, data, killed), [], time.monotonic()
    attempts = 0
    while True:
        starting = training = None
        if not fell or (len(fell) < kills and rng.random() < STARTING):
            starting = rng.uniform(0, reference.first)
        elif len(fell) < kills:  # an even share of what is left for each kill, so that the last finds something to kill
            left = (UPDATES - updates_of(killed)) * per_update
            training = rng.uniform(0, 2 * left / (kills - len(fell) + 4))
        made = attempt(words, killed, starting, training)
        attempts += 1
        if made.status != -signal.SIGKILL:
            break
        place, lost = where(killed, made.began)
        fell.append({"place": place, "updates": updates_of(killed), "lost": lost, "seconds": round(made.seconds, 2)})
    differing = differences(whole, killed) if made.status == 0 else [f"exit status {made.status}"]
    return {
        "setting": setting,
        "kills": len(fell),
        "attempts": attempts,
        "places": Counter(kill["place"] for kill in fell),
        "lost": sum(kill["lost"] for kill in fell),
        "differing": differing,
        "equal": not differing and len(fell) >= kills,
        "seconds_whole": round(reference.seconds, 1),
        "seconds_to_first_update": round(reference.first, 1),
        "seconds_killed": round(time.monotonic() - started, 1),
        "fell": fell,
    }


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not equal, to the last bit, in the last checkpoints and exported weights of two runs."""
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (killed, whole))
    parts = ("state_dict", "optimizer_states", "random_state", "updates", "batches")
    found = [path for part in parts for path in unequal(ours[part], theirs[part], part)]
    for name in ("checkpoints/slim.safetensors", "tokenizer/model.safetensors"):
        found += [] if (killed / name).read_bytes() == (whole / name).read_bytes() else [name]
    return found


def unequal(ours: Any, theirs: Any, path: str) -> list[str]:
    """Paths of the leaves that differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and ours.keys() == theirs.keys():
        return [found for key in theirs for found in unequal(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(theirs, list) and isinstance(ours, list) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return [found for i, pair in enumerate(pairs) for found in unequal(*pair, f"{path}.{i}")]
    if isinstance(theirs, torch.Tensor) and isinstance(ours, torch.Tensor):
        return [] if ours.dtype == theirs.dtype and torch.equal(ours, theirs) else [path]
    return [] if type(ours) is type(theirs) and ours == theirs else [path]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = ["setting", "kills", *PLACES, "updates lost", "final weights"]
    lines = [heads, ["---"] * len(heads)]
    for result in results:
        counts = [result["places"][place] for place in PLACES]
        verdict = "equal" if result["equal"] else "NOT EQUAL" if result["differing"] else "equal, too few kills"
        lines.append([result["setting"], result["kills"], *counts, result["lost"], verdict])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=20, help="in each setting")
    words.add_argument("--seed", type=int, default=0, help="of the moments")
    words.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME", help="settings")
    words.add_argument("--out", help="a new folder for runs and results; else a temporary one")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(asked.out or temporary).resolve()
        make_data(out / "data")
        results = []
        for setting in asked.only:
            rng = np.random.default_rng((asked.seed, list(SETTINGS).index(setting)))
            folder = out / setting.replace(", ", "-").replace(" ", "-")
            results.append(soak(setting, out / "data", folder, asked.kills, rng))
            (out / "resume.json").write_text(json.dumps(results, indent=2) + "\n")
            print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))
    sys.exit(not all(result["equal"] for result in results))


if __name__ == "__main__":
    main()
