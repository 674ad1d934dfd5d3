"""Train and score the runs of the study, several at a time, as far as the time goes; the same command goes on.

    python benchmarks/study/run.py --train 'TRAIN/*.tar' --val 'VAL/*.tar' --stlpips FILE --mobilenet FILE \
        --set trainer=gpu --jobs 8 --minutes 7 [SECTION or NAME ...]

Each run leaves a folder in ``runs/study``: ``result.json`` (the overrides, the metrics, time, versions),
``metrics.csv`` of its training and ``pictures.png``. A run that fails leaves ``error.txt``, which is reported too and
deleted by whoever wants to try it again. Data of any size will do: for ImageNet ``--train`` and ``--val`` name its
shards, and ``--set data.image_size=256 --set optim.updates=...`` the budget.

Scored are the validation images (``--images`` of them) under ``canonical`` (docs/protocols/canonical.md), with the
Fréchet distance of MobileNetV2's features, and with ST-LPIPS every eighth. Usage and perplexity are of training images,
as many as make ten tokens for each codeword, or all.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import shutil
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from plan import RUNS, Run, chosen

ROOT = Path(__file__).resolve().parents[2]
BATCH = 50  # images scored at once
TOKENS = 10  # for each codeword, that usage is counted over
EVERY = 8  # of the images that are scored, one goes to ST-LPIPS
SHOWN = 8  # images in pictures.png, spread evenly
SEEN: dict[str, dict] = {}  # the network's statistics of the images themselves, for the runs that follow
KEPT = ("result.json", "metrics.csv", "pictures.png", "error.txt", "log.txt")


def folder_of(run: Run, out: Path) -> Path:
    """File of a run's results."""
    return out / "_".join("".join(c if c.isalnum() else " " for c in run.name).split())


def finished(run: Run, out: Path) -> bool:
    return any((folder_of(run, out) / name).is_file() for name in ("result.json", "error.txt"))


def make(run: Run, arguments: argparse.Namespace, deadline: float) -> str:
    """Train and score one run; what to print about it."""
    if time.time() + arguments.expected > deadline or os.getppid() != arguments.parent:  # that was killed
        return f"{run.name}: left for another time"
    folder = folder_of(run, arguments.out)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.time()
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            result = train_and_score(run, arguments, folder)
    except Exception:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        said = f"failed: {traceback.format_exc(limit=0).splitlines()[-1]}"
    else:
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        metrics = result["metrics"]
        said = f"{metrics['psnr']:.2f} dB, {min(usages(result)):.1%} used"
    (folder / "log.txt").write_text(log.getvalue())
    if not arguments.keep:
        for path in folder.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"{run.name}: {said} ({time.time() - began:.0f} s)"


def usages(result: dict) -> list[float]:
    """Of each codebook, over the training images."""
    return [value for key, value in result["usage"].items() if key.startswith("usage") and "ceiling" not in key]


def train_and_score(run: Run, arguments: argparse.Namespace, folder: Path) -> dict:
    import hydra
    import torch
    from hydra.core.global_hydra import GlobalHydra

    from vistok import load, speed
    from vistok.training import run as training_run
    from vistok.versions import versions

    GlobalHydra.instance().clear()
    data = [f"data.urls={arguments.train}", f"data.val_urls={arguments.val}"]
    words = ["data=shards", *data, *run.words, *arguments.set]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = hydra.compose("train", words)
    config.run.dir = str(folder)
    gpu = config.trainer.accelerator == "gpu"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        torch.set_num_threads(1)
        speed.keep_freed_pages()  # changes no number
    training_run.train(config, words)
    report = json.loads((folder / "metrics.json").read_text())
    tokenizer = load(folder / "tokenizer").to("cuda" if gpu else "cpu")
    return {
        "name": run.name,
        "section": run.section,
        "head": run.head,
        "size": run.size,
        "backbone": run.backbone,
        "seed": run.seed,
        "note": run.note,
        "overrides": words,
        "updates": report["updates"],
        "seconds": report["seconds"],
        "jobs": arguments.jobs,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "mib": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        **score(tokenizer, arguments, config.data.image_size, folder),
        "versions": versions(),
    }


def score(tokenizer, arguments: argparse.Namespace, image_size: int, folder: Path) -> dict:
    """The numbers of ``eval.py protocol=canonical``, ST-LPIPS, and usage over the training images."""
    import torch
    from torchvision.io import write_png

    from vistok.evaluation import Protocol, Scores, ScoringNetworks
    from vistok.evaluation.reconstructions import reconstruct
    from vistok.images.ranges import to_float, to_uint8
    from vistok.losses import STLPIPS
    from vistok.metrics import CodebookUsage
    from vistok.metrics.feature_networks import TorchvisionFeatures
    from vistok.metrics.usage import usages_of

    device = next(tokenizer.parameters()).device
    tokenizer.eval()
    val, train = (images_of(urls, image_size) for urls in (arguments.val, arguments.train))
    val = val[: arguments.images]
    protocol = Protocol(distances=["psnr"])
    network = TorchvisionFeatures("mobilenet_v2", arguments.mobilenet)
    network.name = "mobilenet_v2"  # whichever file has its weights: all runs of a study have the same one
    networks = ScoringNetworks((network,)).to(device)
    scores = Scores({"canonical": protocol}, tokenizer, networks, SEEN.get(arguments.val), device=device)
    stlpips = STLPIPS(arguments.stlpips).to(device)
    distance, compared = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(val), BATCH):
            images = val[start : start + BATCH].to(device)
            reconstruction, quantized = reconstruct(tokenizer, images, None, BATCH)
            scores.update([str(start + i) for i in range(len(images))], images, reconstruction, quantized)
            levels = to_uint8(reconstruction)
            some = slice(-start % EVERY, None, EVERY)
            compared += len(images[some])
            distance += stlpips(to_float(levels[some]), to_float(images[some])).item() * len(images[some])
        usage = CodebookUsage(tokenizer.quantizer.codebook_sizes).to(device)
        for images in train.split(BATCH):
            quantized = tokenizer.quantize(to_float(images.to(device)))
            usage.update(quantized.codes, quantized.keep)
            if int(usage.counts[0].sum()) >= TOKENS * max(tokenizer.quantizer.codebook_sizes):
                break
        shown = images_of(arguments.shown, image_size) if arguments.shown else val
        shown = shown[:: -(-len(shown) // SHOWN)]
        again = to_uint8(reconstruct(tokenizer, shown.to(device), None, SHOWN)[0]).cpu()
    write_png(torch.cat([torch.cat([*shown], 2), torch.cat([*again], 2)], 1), str(folder / "pictures.png"))
    scores.gather()
    SEEN[arguments.val] = scores.references | scores.images
    used = {name: value.item() for name, value in usages_of(usage.counts).items()}
    return {"metrics": scores.metrics("canonical") | {"stlpips": distance / compared}, "usage": used}


@functools.cache
def images_of(urls: str, image_size: int):
    """All images of shards, cut as ``canonical`` does: (n, 3, H, W) uint8."""
    import torch

    from vistok.data import shards
    from vistok.images.evaluation_crops import CROPS

    data = shards(urls=None, val_urls=urls, image_size=image_size, batch_size=5 * BATCH, num_workers=0)
    return torch.cat([batch.images for batch in data.scored_batches(CROPS["adm"](image_size), 0, 1, 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and score the runs of the study.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a run or a section; all without")
    parser.add_argument("--train", required=True, help="shards to train on, with * or braces")
    parser.add_argument("--val", required=True, help="shards of the validation images")
    parser.add_argument("--stlpips", required=True, help="weights of ST-LPIPS (AlexNet)")
    parser.add_argument("--mobilenet", required=True, help="weights of MobileNetV2's features")
    parser.add_argument("--shown", help="shards of the images in pictures.png (default: those of --val)")
    parser.add_argument("--images", type=int, default=1000, help="that are scored (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="OVERRIDE", help="of the config of every run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no run is begun that would not end")
    parser.add_argument("--expected", type=float, default=0, help="seconds that a run takes, about")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and exported tokenizers")
    arguments = parser.parse_args()
    deadline, arguments.parent = time.time() + 60 * arguments.minutes, os.getpid()
    try:
        runs = [run for run in chosen(arguments.names) if not finished(run, arguments.out)]
    except ValueError as error:
        sys.exit(f"error: {error}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make, run, arguments, deadline) for run in runs]):
            print(done.result(), flush=True)
    missing = [run.name for run in RUNS if not finished(run, arguments.out)]
    print(
        f"{len(RUNS) - len(missing)} of {len(RUNS)} runs are done"
        + (f"; not yet: {'; '.join(missing)}" * bool(missing))
    )


if __name__ == "__main__":
    main()
