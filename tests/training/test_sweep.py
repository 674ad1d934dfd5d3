"""``train.py -m``: folders of its jobs, a job that fails, the table and page at the end, and going on."""

import csv
import os
import subprocess
from pathlib import Path

from ..conftest import TINY

ROOT = Path(__file__).parent.parent.parent


def swept(python, folder, *words):
    return subprocess.run(
        [python, str(ROOT / "train.py"), "-m", *TINY, "loss=l1", "log.every=1", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_sweep_ends_with_a_table_and_a_page(python, tmp_path):
    done = swept(python, tmp_path, "quantizer=simvq,nothing_such,fsq")
    assert done.returncode and "nothing_such" in done.stderr and not list(tmp_path.glob("runs/*/*"))
    words = ["optimizer.lr=0.001,-1,0.002"]  # the second is refused
    done = swept(python, tmp_path, *words)
    (sweep,) = tmp_path.glob("runs/sample-*-sweep/*/sweep.csv")
    sweep = sweep.parent
    assert done.returncode == 1 and "optimizer: Invalid learning rate: -1" in done.stdout + done.stderr
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"lr0.001", "lr0.002"}
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert {row["run"] for row in rows} == {"lr0.001", "lr0.002"} and all(float(row["psnr"]) > 0 for row in rows)
    assert all(row["updates"] == "2" and f"optimizer.lr={row['run'][2:]}" in row["arguments"] for row in rows)
    page = (sweep / "sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and page.count("<strong>") >= 2 and "lr0.002</h2>" in page
    assert "best PSNR first" in done.stdout and f"{ROOT}/eval.py 'tokenizer=[runs/sample-" in done.stdout
    folder = f"hydra.sweep.dir={sweep.relative_to(tmp_path)}"
    assert folder in done.stdout
    again = swept(python, tmp_path, "optimizer.lr=0.001,0.003", folder)
    assert again.returncode == 0, again.stderr
    assert "lr0.001 has ended before" in again.stdout and (sweep / "lr0.003" / "metrics.json").is_file()
