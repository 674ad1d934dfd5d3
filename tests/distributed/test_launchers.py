"""Runs that torchrun, SLURM or submitit started, preempted and requeued."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vistok.distributed import launchers
from vistok.training import run as training_run

ROOT = Path(__file__).parent.parent.parent
LAST = 120  # update: far enough that no run is over before it is preempted
WORDS = [
    "backbone=cnn_f8_small",
    "backbone.encoder.channels=8",
    "model.codebook_size=16",
    "model.latent_dim=4",
    "data.image_size=32",
    "data.batch_size=2",
]
WORDS += [f"optim.updates={LAST}", f"log.val_every={LAST}", "log.every=2", "log.save_every=4", "schedule=constant"]
CPU = ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.limit_val_batches=2"]
TWO = ["trainer=ddp", "trainer.devices=2", *CPU]


def start(words, cwd, **environment):
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(condition, process=None, seconds=600):
    """Wait for something that is true; what it is."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return found


def has_saved(run):
    return lambda: (run / "checkpoints" / "last.1.ckpt").exists()


def updates_of(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["updates"]


def updates_logged(path):
    """The updates in a metrics file."""
    with path.open() as file:
        return [float(row["updates"]) for row in csv.DictReader(file) if row["updates"]]


def assert_went_on(run):
    """A run that was interrupted, saved and resumed in its own folder; it logged no update twice and left none out."""
    assert updates_of(run) == LAST and (run / "metrics.json").is_file()
    assert updates_logged(run / "metrics.csv") == [float(i) for i in range(2, LAST + 1, 2)]
    assert not (run / "metrics_1.csv").exists()


@pytest.fixture
def slurm(python, tmp_path):
    """Stand-ins for SLURM's commands on the path: what the environment needs for that."""
    commands = tmp_path / "bin"
    (tmp_path / "slurm").mkdir()
    commands.mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct"):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/standins/slurm.py {name} "$@"\n')
        (commands / name).chmod(0o755)
    (commands / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (commands / "python").chmod(0o755)
    return {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_STANDIN": str(tmp_path / "slurm")}


@pytest.mark.slow
def test_a_preempted_submitit_job_of_two_ranks_goes_on_in_its_own_folder(python, processes_with, tmp_path):
    """Hydra's submitit launcher, local executor: SIGUSR2 as submitit sends it, its requeueing, and no other run's."""
    sweep = [python, ROOT / "train.py", "-m", f"hydra.sweep.dir={tmp_path}/sweep"]
    sweep += ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    process = start([*sweep, *WORDS, *TWO], tmp_path)
    until(has_saved(tmp_path / "sweep" / "only"), process)
    tasks = processes_with(["submitit.core._submit", f"{tmp_path}/sweep/.submitit/%j"])
    assert len(tasks) == 2
    for task in tasks:
        os.kill(task, signal.SIGUSR2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_went_on(tmp_path / "sweep" / "only")
    log = next(tmp_path.glob("sweep/.submitit/*/*_0_log.out")).read_text()
    assert "MEMBER: 1/2" in log and "interrupted after" in log and "Requeued job" in log


@pytest.mark.slow
def test_a_sweep_on_slurm(python, processes_with, tmp_path, slurm):
    """The job array that submitit renders, run by a stand-in for SLURM: two jobs, one of them preempted."""
    process = start(
        [python, ROOT / "train.py", "-m", f"hydra.sweep.dir={tmp_path}/sweep", "hydra/launcher=submitit_slurm",
         "hydra.launcher.partition=any", *WORDS, *CPU, "run.seed=0,1"],
        tmp_path, **slurm,
    )  # fmt: skip
    until(has_saved(tmp_path / "sweep" / "seed1"), process)
    os.kill(int((tmp_path / "slurm" / "1000_1.srun").read_text()), signal.SIGUSR2)
    until(lambda: all((tmp_path / "slurm" / f"1000_{i}.status").exists() for i in range(2)))
    until(lambda: processes_with([f"hydra.sweep.dir={tmp_path}/sweep"]) == [] or process.poll() is not None, seconds=5)
    assert_went_on(tmp_path / "sweep" / "seed1")
    assert (
        updates_of(tmp_path / "sweep" / "seed0") == LAST
        and not (tmp_path / "sweep" / "seed0" / "metrics_1.csv").exists()
    )
    assert [OmegaConf.load(tmp_path / "sweep" / f"seed{i}" / "config.yaml").run.seed for i in "01"] == [0, 1]


@pytest.mark.slow
def test_the_sbatch_script(tmp_path, slurm):
    """Two tasks under a stand-in for SLURM, told that their time is nearly over: saved, requeued, finished."""
    shutil.copy(ROOT / "train.py", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    script = ROOT / "configs" / "slurm" / "train.sbatch"
    words = ["sbatch", "--ntasks-per-node=2", script, "run.dir=RUN", *WORDS, *CPU]
    submitted = start(words, tmp_path, **slurm)
    assert submitted.communicate(timeout=60)[0] == "Submitted batch job 1000\n"
    until(has_saved(tmp_path / "RUN"))
    os.kill(int((tmp_path / "slurm" / "1000.srun").read_text()), signal.SIGUSR1)
    status = until(lambda: (tmp_path / "slurm" / "1000.status").exists() and (tmp_path / "slurm" / "1000.status"))
    log = (tmp_path / "slurm-1000.log").read_text()
    assert status.read_text() == "0", log
    assert_went_on(tmp_path / "RUN")
    assert "MEMBER: 2/2" in log and "interrupted after" in log


def test_the_sbatch_script_wants_a_run_folder():
    script = ROOT / "configs" / "slurm" / "train.sbatch"
    done = subprocess.run(["bash", str(script), "optim.updates=2"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "run.dir=RUN is needed" in done.stderr


@pytest.mark.slow
def test_torchrun_passes_its_signal_on(python, tmp_path):
    """SIGTERM for torchrun alone: both ranks save in the same update."""
    words = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", ROOT / "train.py"]
    words += [*WORDS, *TWO, f"run.dir={tmp_path}/run", "run.resume=auto"]
    process = start(words, tmp_path)
    until(has_saved(tmp_path / "run"), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "interrupted after" in output
    assert updates_logged(tmp_path / "run" / "metrics.csv")[-1] == updates_of(tmp_path / "run") < LAST


@pytest.mark.parametrize("variables", [
    {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"},
    {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0"},
    {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_JOB_ID": "7"},
])  # fmt: skip
def test_more_processes_than_were_asked_for(train, tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    message = r"started 2 processes, but trainer.devices=1 trainer.num_nodes=1 are 1; trainer=ddp is for several"
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nodes_count(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "32")
    assert launchers.environment(8, 4) == [] and launchers.environment(-1, 4) == []
    with pytest.raises(ValueError, match="torchrun started 32 processes, but trainer.devices=8 trainer.num_nodes=2"):
        launchers.environment(8, 2)


def test_jobs_of_a_sweep_have_folders_of_their_own(compose):
    job = training_run.job_of_sweep(compose("train"), "runs/sweeps/TIME/3")
    assert (job.run.dir, job.run.resume) == ("runs/sweeps/TIME/3", "auto")
    own = training_run.job_of_sweep(compose("train", "run.dir=RUN", "run.resume=FILE"), "runs/sweeps/TIME/3")
    assert (own.run.dir, own.run.resume) == ("RUN", "FILE")


def test_a_signal_is_handed_on(monkeypatch):
    received = []
    former = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    try:
        launchers.hand_on(signal.SIGUSR2)
        launchers.hand_on(signal.SIGINT)  # Python's own
        launchers.hand_on(signal.SIGUSR1)  # the default
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert received == [signal.SIGUSR2]
