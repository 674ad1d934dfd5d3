"""Runs killed again and again at drawn moments, against runs never killed: do they end equal, to the last bit?

    python benchmarks/resume.py [--settings 18] [--kills 6] [--seed 0] [--out DIR]

A setting is drawn: head, start and repair of its codebook, losses, batches of an update, average, precision, data,
loader workers and processes. Each value of each of these comes as often as any other, in an order of its own. A tiny
tokenizer is trained once without interruption, then with ``run.resume=auto`` and SIGKILL for all of its processes at
drawn moments, and then to the end. Everything that the two leave must be equal: checkpoint, exported files, pictures
and every row of ``metrics.csv``. Prints a table and writes ``DIR/resume.json``; exit status 1 if a setting does not end
equal.

One process imports everything and is forked for each start, which saves the seconds that imports take.
"""

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process with OpenMP's threads cannot be forked

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only

from vistok.commands import composition, data_shards
from vistok.training import checkpoint_io, summary
from vistok.training import run as training_run
from vistok.training.callbacks import codebook_health
from vistok.training.callbacks.last_checkpoint import LastCheckpoint
from vistok.training.callbacks.metrics_file import MetricsFile
from vistok.training.checkpoint_io import SafeCheckpointIO
from vistok.training.module import LitTokenizer

ROOT = Path(__file__).parent.parent
UPDATES, SAVE_EVERY, VAL_EVERY, LOG_EVERY = 36, 5, 8, 4
WORDS = [
    "backbone=cnn_f8_small",
    "backbone.encoder.channels=8", "data.image_size=32", "model.latent_dim=4", "model.codebook_size=64",
    "data.batch_size=2", "optim.adversarial_start=9", "schedule.warmup=0", "++data.flip=true",
    "trainer.limit_val_batches=3",
    f"optim.updates={UPDATES}", f"log.save_every={SAVE_EVERY}", f"log.val_every={VAL_EVERY}", f"log.every={LOG_EVERY}",
]  # fmt: skip
REGULARIZED = ["loss=small_data", "loss.adversary.warmup=12", "loss.adversary.regularizers.r1.every=3"]
CHOICES: dict[str, dict[str, list[str]]] = {
    "head": {
        "vq": ["quantizer=vq"],
        "vq, k-means, restarts": ["quantizer=vq", "quantizer.kmeans_updates=8", "quantizer.restart=0.5"],
        "vq_ema, k-means, restarts": ["quantizer=vq_ema", "quantizer.kmeans_updates=8", "quantizer.restart=0.5"],
        "vq_cosine, entropy": ["quantizer=vq_cosine", "quantizer.entropy_temperature=0.1"],
        "simvq": ["quantizer=simvq"],
        "vqbridge": ["quantizer=vqbridge"],
        "bsq": ["quantizer=bsq"],
        "fq of vq_ema": ["quantizer=fq", "quantizer@quantizer.head=vq_ema"],
        "fq of vq": ["quantizer=fq", "quantizer@quantizer.head=vq"],
        "dqvae": ["quantizer=dqvae"],
    },
    "on_collapse": {name: [f"optim.on_collapse={name}"] for name in ("restart", "reinitialise", "null")},
    "loss": {"l2_gan": ["loss=l2_gan"], "R1, LeCam, DiffAug": REGULARIZED, "l1": ["loss=l1"]},
    "accumulate": {"1": [], "2": ["optim.accumulate=2"]},
    "average": {"none": [], "0.9": ["optim.ema_decay=0.9"]},
    "precision": {"float32": [], "bf16": ["speed=fast"]},
    "data": {
        "folder": ["data=folder", "data.root={0}/photos"],
        "shards": ["data=shards", "data.urls={0}/train/*.tar", "data.val_urls={0}/val/*.tar", "data.block=8"],
        "sample": ["data=sample"],
    },
    "workers": {"0": ["data.num_workers=0"], "1": ["data.num_workers=1"]},
    "processes": {"1": [], "2": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]},
}
PLACES = ("start", "training", "validation", "writing", "renaming", "logging", "closing")
PATIENCE = 300  # seconds for an attempt


class Moment(NamedTuple):
    """When a run is killed."""

    place: str
    nth: int  # time that it comes there
    delay: float  # seconds after it came there; 0 in the middle of what it does there


def draw(number: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """So many settings: a choice of each kind. All choices of a kind come equally often, in an order of their own."""
    columns = {}
    for kind, choices in CHOICES.items():
        rounds = [rng.permutation(list(choices)).tolist() for _ in range(-(-number // len(choices)))]
        columns[kind] = [name for names in rounds for name in names][:number]
    return [{kind: names[i] for kind, names in columns.items()} for i in range(number)]


def words_of(setting: dict[str, str], data: Path) -> list[str]:
    """The words that a setting adds to the command line."""
    words = [word.format(data) for kind, name in setting.items() for word in CHOICES[kind][name]]
    if setting["processes"] != "1":  # this trainer brings a precision of its own
        words += ["speed=exact"] if setting["precision"] == "float32" else []
    return words


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
        data_shards.main(["--images", str(folder / "photos" / part), "--out", str(folder / part), "--per-shard", "16"])


def attempt(config: DictConfig, processes: int, log: Path, moment: Moment | None = None) -> int:
    """Start a run in processes of its own; its exit status, or minus the signal that ended it.

    Args:
        config: The run's.
        processes: Its ranks.
        log: What it prints is added there.
        moment: When all of it is killed.
    """
    leader = os.fork()
    if not leader:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(lead(config, processes, moment))
    end = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(leader, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.killpg(leader, signal.SIGKILL)
            os.waitpid(leader, 0)
            raise RuntimeError(f"no end after {PATIENCE} seconds, see {log}")
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)  # workers that have not noticed yet
    return os.waitstatus_to_exitcode(status)


def lead(config: DictConfig, processes: int, moment: Moment | None) -> int:
    """Be the only rank, or start ranks as torchrun would and wait for them."""
    if processes == 1:
        return work(config, moment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(processes):
        child = os.fork()
        if not child:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            names |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "resume"}
            os.environ.update({name: str(value) for name, value in names.items()})
            rank_zero_only.rank = rank  # which Lightning reads from there when it is imported
            os._exit(work(config, moment if rank == 0 else None))
        ranks.append(child)
    for _ in ranks:
        _, status = os.wait()
        if status:  # the others would wait for it
            os.killpg(os.getpgrp(), signal.SIGTERM)
            return os.waitstatus_to_exitcode(status) or 1
    return 0


def work(config: DictConfig, moment: Moment | None) -> int:
    """Runs ``train.py`` in this process and returns its exit status."""
    torch.set_num_threads(1)
    # Collapses that come, and are repaired, within this short a run.
    codebook_health.CodebookHealth.__init__.__defaults__ = (
        None,
        codebook_health.CollapseRule(grace=2, patience=4, floor=0.95),
    )
    if moment:
        plant(moment)
    try:
        composition.run(training_run.train, config, [])
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code)
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def kill() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def plant(moment: Moment) -> None:
    """See to it that this process and all of its group are killed at a moment."""
    begin = threading.Timer(moment.delay, kill).start if moment.delay else kill
    if moment.place == "start":
        begin()
    elif moment.place == "training":
        before_call(LitTokenizer, "training_step", moment.nth, begin)
    elif moment.place == "validation":
        before_call(LitTokenizer, "validation_step", moment.nth, begin)
    elif moment.place == "writing":
        before_call(SafeCheckpointIO, "save_checkpoint", moment.nth, begin)
    elif moment.place == "renaming":
        before_renaming(moment.nth)
    elif moment.place == "logging":
        before_call(MetricsFile, "_add", moment.nth, lambda: write_half_a_row_and(kill))
    elif moment.place == "closing":
        before_call(summary, "close_run", 1, begin)


def before_call(owner: Any, name: str, nth: int, action: Callable[[], None]) -> None:
    """Do something just before the nth call of a function."""
    function, calls = getattr(owner, name), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == nth:
            if owner is MetricsFile:
                Half.path = arguments[0].path
            action()
        return function(*arguments, **options)

    setattr(owner, name, counted)


class Half:
    """The file that a kill leaves with an unfinished row."""

    path: Path


def write_half_a_row_and(then: Callable[[], None]) -> None:
    with Half.path.open("a") as file:
        file.write("0,1.5,")
    then()


def before_renaming(nth: int) -> None:
    """Kill before or after a checkpoint, or a link to one, gets a name: two moments for each."""
    times = []

    def around(function: Callable[..., None]) -> Callable[..., None]:
        def counted(source: Any, target: Any, **options: Any) -> None:
            if not str(target).endswith((".ckpt", ".ckpt.partial")):
                return function(source, target, **options)
            for do in (lambda: function(source, target, **options), lambda: None):
                times.append(1)
                if len(times) == nth:
                    kill()
                do()

        return counted

    checkpoint_io.os.replace, checkpoint_io.os.link = around(os.replace), around(os.link)


def moments(kills: int, rng: np.random.Generator) -> Iterator[Moment]:
    """So many, the places in turn in an order of their own."""
    places = [place for _ in range(-(-kills // len(PLACES))) for place in rng.permutation(PLACES[:-1]).tolist()]
    if kills > 2:
        places[kills - 1] = PLACES[-1] if rng.random() < 0.5 else places[kills - 1]
    spans = {  # times that a run comes there before its next checkpoint or two; seconds that it takes
        "start": (1, 1.5), "training": (12, 0.1), "validation": (5, 0.05), "writing": (2, 0.03), "renaming": (9, 0),
        "logging": (4, 0), "closing": (1, 0.1),
    }  # fmt: skip
    for place in places[:kills]:
        times, seconds = spans[place]
        delay = rng.uniform(0, seconds) if rng.random() < 0.8 or place == "start" else 0.0
        yield Moment(place, int(rng.integers(1, times + 1)), float(delay))


def soak(setting: dict[str, str], data: Path, folder: Path, kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """One setting: the whole run, the killed one, and what came of it."""
    folder.mkdir(parents=True)
    processes, began = int(setting["processes"]), time.monotonic()
    configs = {}
    for name in ("whole", "killed"):
        words = [*WORDS, *words_of(setting, data), f"run.dir={folder / name}", "run.resume=auto"]
        configs[name] = hydra.compose("train", overrides=words)
    status = attempt(configs["whole"], processes, folder / "whole.log")
    if status:
        raise RuntimeError(f"the run without kills ended with {status}, see {folder / 'whole.log'}")
    seconds, fell, reached = time.monotonic() - began, [], []
    last_file = folder / "killed" / "metrics.json"
    for moment in moments(kills, rng):
        status = attempt(configs["killed"], processes, folder / "killed.log", moment)
        if status == -signal.SIGKILL:
            fell.append(moment.place)
            reached.append(updates_of(folder / "killed"))
        if status != -signal.SIGKILL or last_file.exists():  # it was over before, or all but the process's own end
            break
    if status == -signal.SIGKILL:
        status = 0 if last_file.exists() else attempt(configs["killed"], processes, folder / "killed.log")
    different = differences(folder / "whole", folder / "killed") if status == 0 else [f"exit status {status}"]
    return {
        "setting": setting,
        "kills": len(fell),
        "places": Counter(fell),
        "reached": reached,
        "repairs": (folder / "whole.log").read_text().count("were moved onto latents"),
        "differing": different,
        "seconds_whole": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def updates_of(run: Path) -> int:
    """Updates in the newest checkpoint, 0 if there is none."""
    path = run / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True, mmap=True)["updates"] if path.exists() else 0


def differences(whole: Path, killed: Path) -> list[str]:
    """The differences, to the last bit, between the files of two runs."""
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (killed, whole))
    for checkpoint in (ours, theirs):
        del checkpoint["loops"]  # Lightning's counts of what it began and ended
        checkpoint.pop("seconds", None)  # of all attempts, which differ
    found = unequal(ours, theirs, "last.ckpt")
    names = ["checkpoints/slim.safetensors", "tokenizer/model.safetensors", "metrics.csv", "reconstructions.png"]
    for name in [*names, "codebook.png"]:
        found += [] if (killed / name).read_bytes() == (whole / name).read_bytes() else [name]
    metrics = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (killed, whole)]
    found += [] if metrics[0] == metrics[1] else ["metrics.json"]
    return found + [str(path) for path in killed.rglob("*.partial")]


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


def described(setting: dict[str, str]) -> str:
    """A setting in one line."""
    parts = [setting["head"], setting["loss"], setting["precision"]]
    parts += [f"optim.on_collapse={setting['on_collapse']}"] * (setting["on_collapse"] != "null")
    parts += [f"optim.accumulate={setting['accumulate']}"] * (setting["accumulate"] != "1")
    parts += [f"optim.ema_decay={setting['average']}"] * (setting["average"] != "none")
    return "; ".join([*parts, f"{setting['data']}, {setting['workers']} workers, {setting['processes']} processes"])


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = ["setting", "repairs", "kills", *PLACES, "at the end"]
    lines = [heads, ["---"] * len(heads)]
    for result in results:
        counts = [result["places"].get(place, 0) for place in PLACES]
        verdict = "NOT EQUAL" if result["differing"] else "equal"
        lines.append([described(result["setting"]), result["repairs"], result["kills"], *counts, verdict])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def warm_up() -> None:
    """Import what a run imports on its way."""
    import pytorch_lightning.strategies
    import skimage.data
    import skimage.transform

    import vistok.data
    import vistok.training.callbacks.stability

    assert (
        LastCheckpoint
        and pytorch_lightning.strategies
        and skimage.data
        and vistok.data
        and vistok.training.callbacks.stability
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--settings", type=int, default=18, help="how many are drawn")
    words.add_argument("--kills", type=int, default=6, help="in each setting")
    words.add_argument("--seed", type=int, default=0, help="of settings and moments")
    words.add_argument("--only", type=int, nargs="+", metavar="I", help="of the drawn settings only these, from 0")
    words.add_argument("--out", help="a new folder for runs and results; else a temporary one")
    asked = words.parse_args()
    torch.set_num_threads(1)
    warm_up()
    results = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"),
    ):
        out = Path(asked.out or temporary).resolve()
        make_data(out / "data")
        for i, setting in enumerate(draw(asked.settings, np.random.default_rng(asked.seed))):
            if asked.only and i not in asked.only:
                continue
            rng = np.random.default_rng((asked.seed, i))
            results.append(soak(setting, out / "data", out / f"{i:02d}", asked.kills, rng))
            (out / "resume.json").write_text(json.dumps(results, indent=2) + "\n")
            print(table(results[-1:]).splitlines()[-1], *results[-1]["differing"][:5], flush=True)
    print(table(results))
    kills = sum(result["kills"] for result in results)
    wrong = sum(bool(result["differing"]) for result in results)
    print(f"{kills} kills in {len(results)} settings, {wrong} of these not equal at the end")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
