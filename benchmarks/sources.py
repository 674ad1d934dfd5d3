"""CPU time per image of training data from a folder, tars, parquet files and a saved data set with the same JPEG files.

    python benchmarks/sources.py [--gate] [--samples N]

Crops of scikit-image's photos are written as 512 files of 256 and of 64 pixels, then read by the data modules of
``train.py`` without workers: one epoch with random crops, in turns. Small images show what a source costs beside their
decoding.
"""

import argparse
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
import measure
import numpy as np
import torch
from PIL import Image
from skimage import data as photos

from vistok.commands import data_shards
from vistok.data import folder, shards

COUNT, BATCH = 512, 32
TARGET = 0.9  # least images per second from parquet files, as a share of those from tars


def write(root: Path, size: int) -> None:
    """Writes the images below ``root``: ``photos``, ``tars``, ``parquet`` and ``saved``."""
    rng = np.random.default_rng(0)
    pictures = [photos.astronaut(), photos.coffee(), photos.chelsea(), photos.rocket()]
    files = []
    for i in range(COUNT):
        picture = pictures[i % len(pictures)]
        top, left = (rng.integers(0, side - 299) for side in picture.shape[:2])
        crop = Image.fromarray(picture[top : top + 299, left : left + 299]).resize((size, size))
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=92)
        files.append(file.getvalue())
        (root / "photos" / str(i % 10)).mkdir(parents=True, exist_ok=True)
        (root / "photos" / str(i % 10) / f"{i:04d}.jpg").write_bytes(files[-1])
    data_shards.main(["--images", str(root / "photos"), "--out", str(root / "tars"), "--per-shard", str(COUNT // 2)])
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    images = [{"bytes": own, "path": f"{i:04d}.jpg"} for i, own in enumerate(files)]
    table = datasets.Dataset.from_dict({"image": images, "label": [i % 10 for i in range(COUNT)]}, features)
    (root / "parquet").mkdir()
    for i in range(2):
        table.shard(2, i).to_parquet(str(root / "parquet" / f"train-0000{i}-of-00002.parquet"))
    table.save_to_disk(str(root / "saved"))


def epoch(data) -> Callable[[], None]:
    """Reads one epoch of training batches; those of a stream begin anew each time."""

    def read() -> None:
        batches = iter(data.train_dataloader())
        assert sum(len(next(batches).images) for _ in range(COUNT // BATCH)) == COUNT

    return read


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--gate", action="store_true", help="exit with 1 if a target is not reached")
    words.add_argument("--samples", type=int, default=5, help="epochs from each source; the median counts")
    asked = words.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable()
    claims = measure.Claims()
    measure.table(["pixels", "source", "ms an image", "images/s", "of tars"])
    for size in (256, 64):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            write(root, size)
            given = {"image_size": size, "batch_size": BATCH, "crop": "random", "flip": True, "labels": True}
            listed = {name: folder(str(root / name), **given, val_count=1) for name in ("photos", "saved")}
            streamed = {
                name: shards(f"{root / name}/*.{suffix}", f"{root / name}/*.{suffix}", **given)
                for name, suffix in (("tars", "tar"), ("parquet", "parquet"))
            }
            spent = measure.milliseconds({name: epoch(own) for name, own in (streamed | listed).items()}, asked.samples)
            for name, own in spent.items():
                measure.line([size, name, own / COUNT, 1000 * COUNT / own, spent["tars"] / own])
            claims.at_least(f"{size} pixels, parquet of tars", spent["tars"] / spent["parquet"], TARGET)
    claims.finish(asked.gate)


if __name__ == "__main__":
    main()
