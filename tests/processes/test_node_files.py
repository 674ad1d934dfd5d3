"""Files and values of a launch are made by one process of a node, and reach the others or fail in all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistok.distributed.node import MADE_IN, peer
from vistok.processes import node_files
from vistok.processes.node_files import node_file, node_value

TOKENIZERS = Path(__file__).parent.parent.parent / "tokenizers"
LISTS = """
import os, sys
from vistok.data import folder
if os.environ.get("LOCAL_RANK", "0") != "0":
    def refuse(*_): raise AssertionError("rank 1 reads the storage")
    os.scandir, scandir = refuse, os.scandir
    from vistok.data import folder_splits, image_folder
    from vistok.data.listings import folder_images, splits
    folder_splits.os = type("os", (), {"scandir": staticmethod(scandir)})  # the root alone
    image_folder.read_values = splits.drawn = folder_images.class_folders = refuse
data = folder(sys.argv[1], 32, 2, val_count=2, range="auto", labels=True)
print(data.train.names(), data.val.names(), data.form.low_high, data.notes, data.train.listing.classes)
if "TORCHELASTIC_RUN_ID" in os.environ:
    import torch.distributed as dist
    dist.init_process_group("gloo")
    dist.barrier()
    from vistok.processes import node_files
    print(*(f"made in {folder}" for folder in node_files._own))
"""


def started(python, *words, **variables):
    environment = {"PYTHONPATH": str(TOKENIZERS), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [str(word) for word in (python, *words)],
        env={**{name: own for name, own in os.environ.items() if name != MADE_IN}, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """``pair(rank)``: variables of a rank that torchrun started."""
    monkeypatch.setattr(node_files.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(node_files, "_own", {})

    def variables(rank):
        return {
            "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_ERROR_FILE": f"{tmp_path}/attempt_0/{rank}/error.json",
            "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2", "TMPDIR": str(tmp_path),
        }  # fmt: skip

    return variables


def lines_of(names):
    return sorted(line for line in names if line.startswith("['"))


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    for i in range(7):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("I;16", (40, 40), 100 * i + 1).save(path)
    return tmp_path / "photos"


def test_ranks_of_torchrun_list_once(python, photos, tmp_path):
    (tmp_path / "lists.py").write_text(LISTS)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "lists.py", photos)
    output, _ = started(python, *torchrun, TMPDIR=str(tmp_path)).communicate(timeout=120)
    first, second = lines_of(output.splitlines())
    assert first == second and "('a', 'b')" in first, output
    (folder,) = (line.removeprefix("made in ") for line in output.splitlines() if line.startswith("made in"))
    assert not Path(folder).exists()


def test_processes_of_lightning_find_what_the_first_listed(python, photos, tmp_path, pair, monkeypatch):
    """Lightning starts them from the first process, with its environment, when the data is built."""
    from vistok.data import folder

    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    data = folder(str(photos), 32, 2, val_count=2, range="auto", labels=True)
    (tmp_path / "lists.py").write_text(LISTS)
    variables = {MADE_IN: os.environ[MADE_IN], "LOCAL_RANK": "1", "TMPDIR": str(tmp_path)}
    output, _ = started(python, tmp_path / "lists.py", photos, **variables).communicate(timeout=120)
    (found,) = lines_of(output.splitlines())
    assert found.startswith(f"{data.train.names()} {data.val.names()} {data.form.low_high}"), output


def test_alone_everything_is_made_anew(pair):
    assert peer() is None
    made = iter("ab")
    assert [node_value("x", lambda: [next(made), 1.5, None]) for _ in range(2)] == [["a", 1.5, None], ["b", 1.5, None]]


def test_the_first_of_several_makes_a_thing_once_and_the_others_never(pair, monkeypatch):
    for name, own in pair(0).items():
        monkeypatch.setenv(name, own)
    assert [node_value("x", lambda: 1), node_value("x", lambda: 2), node_value("y", lambda: 3)] == [1, 1, 3]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [node_value(name, lambda: pytest.fail("made")) for name in "xy"] == [1, 3]


def test_an_error_reaches_all(pair, monkeypatch):
    def fail():
        raise ValueError("data.root=x: no images found in x")

    for rank in (0, 1):
        for name, own in pair(rank).items():
            monkeypatch.setenv(name, own)
        with pytest.raises(ValueError, match="data.root=x: no images found in x"):
            node_value("x", fail)


def test_a_first_process_that_ends_early_is_named(pair, monkeypatch):
    words = "import time; from vistok.processes.node_files import node_file as f; f('x', lambda p: time.sleep(60))"
    first = started(sys.executable, "-c", words, **pair(0))
    for name, own in pair(1).items():
        monkeypatch.setenv(name, own)
    held = node_files._root() / peer().launch
    while not node_files._lives(held):
        time.sleep(0.02)
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {first.pid}"])
    with pytest.raises(ValueError, match="first process of this node ended while this one waited"):
        node_file("x", lambda path: None)
    first.communicate()
    # the next launch removes what the killed process left
    os.utime(held, (0, 0))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "y")
    node_value("x", lambda: 1)
    assert not held.exists()


def test_a_first_process_that_does_not_begin_is_named(pair, monkeypatch):
    monkeypatch.setattr(node_files, "PATIENCE", 0.2)
    for name, own in pair(1).items():
        monkeypatch.setenv(name, own)
    with pytest.raises(ValueError, match="within 0 s: TMPDIR must be one folder for all processes of a node"):
        node_file("x", lambda path: None)


@pytest.mark.parametrize("same, other", [
    ({"LOCAL_RANK": "0"}, {"TORCHELASTIC_RESTART_COUNT": "1"}),
    ({"TORCHELASTIC_ERROR_FILE": "/t/attempt_0/1/e.json"}, {"TORCHELASTIC_ERROR_FILE": "/t/attempt_1/0/e.json"}),
    ({"RANK": "0"}, {"GROUP_RANK": "1"}),
])  # fmt: skip
def test_launches_of_torchrun(monkeypatch, same, other):
    base = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "TORCHELASTIC_ERROR_FILE": "/t/attempt_0/0/error.json"}
    assert launch(monkeypatch, base | same) == launch(monkeypatch, base) != launch(monkeypatch, base | other)


def test_launches_of_slurm(monkeypatch):
    base = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    base |= {"SLURM_JOB_NAME": "train"}
    assert launch(monkeypatch, base) == launch(monkeypatch, base | {"SLURM_LOCALID": "1"})
    for other in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_NODEID"):
        assert launch(monkeypatch, base | {other: "9"}) != launch(monkeypatch, base)


def launch(monkeypatch, variables):
    with monkeypatch.context() as patched:
        for name, own in variables.items():
            patched.setenv(name, own)
        found = peer()
    assert found.first == (variables.get("LOCAL_RANK", variables.get("SLURM_LOCALID")) == "0")
    return found.launch


def test_a_full_disk_names_the_folder(pair):
    def fill(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="cannot be written: No space left on device; TMPDIR names another folder"):
        node_file("x", fill)
