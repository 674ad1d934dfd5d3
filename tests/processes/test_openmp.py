"""The variables that are set for OpenMP before torch is loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vistok.processes import openmp

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(openmp, "GPUS", ())


def test_waiting_threads_sleep_soon(no_gpu):
    variables = {"HOME": "/root"}
    openmp.share_cores(variables)
    assert variables == {"HOME": "/root", "GOMP_SPINCOUNT": openmp.SPINS}


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_stays(no_gpu, name):
    variables = {name: "1"}
    openmp.share_cores(variables)
    assert variables == {name: "1"}


def test_nothing_is_set_beside_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(openmp, "GPUS", (tmp_path,))
    variables = {}
    openmp.share_cores(variables)
    assert variables == {}


WATCHED = """
import json, os, sys
seen = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            seen.append(os.environ.get("GOMP_SPINCOUNT"))
            raise SystemExit  # torch itself is not needed
sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:]
from vistok.processes import openmp
openmp.GPUS = ()
import runpy
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print("SEEN", json.dumps(seen))
"""


@pytest.mark.parametrize(
    "words", [["train.py", "run.resume=nothing.ckpt"], ["tokenizers/vistok/__main__.py", "tokens", "check", "--help"]]
)
def test_it_is_set_before_torch_is_loaded(words, tmp_path):
    own = {name: value for name, value in os.environ.items() if not name.startswith(openmp.OWN)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(ROOT / words[0]), *words[1:]],
        env={**own, "PYTHONPATH": str(ROOT / "tokenizers")},
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert set(json.loads(done.stdout.rpartition("SEEN ")[2])) == {openmp.SPINS}, done.stderr
