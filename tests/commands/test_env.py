"""Versions and hardware for a bug report: the facts, what is kept private, and no torch without a driver."""

import platform
import subprocess
import sys
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import vistok
from vistok.commands import env

Properties = namedtuple("Properties", "name total_memory major minor")


@pytest.fixture
def printed(capsys):
    """``printed()``: the facts by name, as the command prints them."""

    def run():
        env.main([])
        found, name = {}, ""
        for line in capsys.readouterr().out.splitlines():
            assert len(line) <= env.LONGEST and line == line.rstrip()
            name = line[:12].strip().rstrip(":") or name
            found[name] = f"{found.get(name, '')} {line[12:]}".strip()
        return found

    return run


def test_facts(printed):
    facts = printed()
    assert facts["vistok"].startswith(vistok.__version__) and facts["python"].startswith(platform.python_version())
    for name in ("torch", "numpy", "pytorch-lightning", "omegaconf"):
        assert f"{name} {version(name)}" in facts["libraries"]
    assert "pytest" not in facts["libraries"] and "MISSING" not in facts["libraries"]
    assert "GiB" in facts["memory"] and "free" in facts["disk"] and "cores usable" in facts["cpu"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(env.__file__).parent, capture_output=True, text=True)
    if commit.returncode == 0:
        assert f"commit {commit.stdout[:12]}" in facts["vistok"]


def test_what_is_private_is_left_out(printed, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "1234567890")  # a number, in a variable with a key
    monkeypatch.setenv("HF_TOKEN", "12345")
    monkeypatch.setenv("HF_HOME", "/home/alice/models")
    monkeypatch.setenv("SLURM_JOB_USER", "alice")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("UNRELATED", "1")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # vistok's own
    variables = printed()["variables"].split(", ")
    assert {"WANDB_API_KEY", "HF_TOKEN", "HF_HOME", "SLURM_JOB_USER"} <= set(variables)
    assert {"CUDA_VISIBLE_DEVICES=0,1", "WANDB_MODE=offline"} <= set(variables)
    text = " ".join(printed().values())
    assert not any(word in text for word in ("1234567890", "alice", "UNRELATED", "GOMP", str(Path.home()) + "/"))


def test_gpus_are_counted(printed, monkeypatch):
    monkeypatch.setattr(env, "_output", lambda *words: "570.1\n570.1" if words[0] == "nvidia-smi" else "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Properties("NVIDIA H200", 141 * 2**30, 9, 0))
    assert printed()["gpu"].startswith("2 x NVIDIA H200 (141 GiB, sm_90); driver 570.1, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert printed()["gpu"].startswith("torch sees none; driver 570.1, ")


def test_torch_is_not_imported_without_a_driver():
    program = "import sys; from vistok.commands import env; env._output = lambda *words: ''; env.main([]); "
    program = (
        program.replace("env.main", "env.DRIVER = env.Path('/nothing'); env.main") + "print('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", program]
    source = str(Path(vistok.__file__).parents[1])
    said = subprocess.run(words, env={"PYTHONPATH": source, "PATH": ""}, capture_output=True, text=True, timeout=60)
    assert said.stdout.endswith("\nFalse\n") and "no NVIDIA driver; torch was built for" in said.stdout
