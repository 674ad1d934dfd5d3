"""Commands that a run prints at its end, pasted into a shell that does not know ``python``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vistok.training import next_commands

ROOT = Path(__file__).parents[2]
WITHOUT_DOWNLOADS = "feature_network=none metrics.lpips=null metrics.intervals=false"


def test_what_a_run_prints_can_be_pasted(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    train(tmp_path / "a run", "schedule.warmup=50", "optim.updates=4")
    printed = capsys.readouterr().out
    assert (tmp_path / "a run" / "curves.png").is_file() and "a run/curves.png" in printed
    evaluate, load = (re.search(rf"^{name} +(.*)$", printed, re.MULTILINE)[1] for name in ("evaluate", "load"))
    assert evaluate.startswith(f"{next_commands.interpreter()} ") and " eval.py 'tokenizer=" in evaluate
    assert evaluate.endswith(" data=sample")
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for command in (f"{evaluate} {WITHOUT_DOWNLOADS} run.out={tmp_path}/out.json", load):
        done = subprocess.run(command, shell=True, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert '"image_size": 32' in (tmp_path / "out.json").read_text()


def test_interpreters(monkeypatch, tmp_path):
    for name in ("bin", "my env/bin"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "python").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for own, printed in (("bin/python", "python"), ("my env/bin/python", "'my env/bin/python'")):
        monkeypatch.setattr(sys, "executable", str(tmp_path / own))
        assert next_commands.interpreter() == printed
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/opt/python3")
    assert next_commands.interpreter() == "/opt/python3"


@pytest.mark.parametrize("data, words", [
    ({"_target_": "vistok.data.sample"}, "data=sample"),
    ({"_target_": "vistok.data.shards", "val_urls": "a-*.tar", "labels": False},
     """data=shards 'data.val_urls="a-*.tar"'"""),
    ({"_target_": "vistok.data.shards", "val_urls": ["a b.tar", "c.tar"], "columns": {"image": "jpg"}},
     """data=shards 'data.val_urls=["a b.tar", "c.tar"]' 'data.columns={"image": "jpg"}'"""),
])  # fmt: skip
def test_the_data_of_a_run(data, words, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    command = next_commands.to_evaluate(tmp_path, OmegaConf.create({"data": data}))
    assert command == f"{next_commands.interpreter()} eval.py tokenizer={tmp_path} {words}"


def test_a_run_that_recorded_its_images_needs_no_words_about_them(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    (tmp_path / "held_out.json").touch()
    config = OmegaConf.create({"data": {"_target_": "vistok.data.folder"}})
    assert next_commands.to_evaluate(tmp_path, config).endswith(f" eval.py tokenizer={tmp_path}")


def test_commands_name_the_program_that_was_called(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for called, program in (
        ("train.py", "eval.py"),
        (str(tmp_path / "eval.py"), "eval.py"),
        ("/opt/my code/train.py", "'/opt/my code/eval.py'"),
        ("../train.py", str(tmp_path.parent / "eval.py")),
        ("/venv/bin/vistok", "-m vistok eval"),
        ("/venv/vistok/__main__.py", "-m vistok eval"),
        ("/venv/ipykernel_launcher.py", "-m vistok eval"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert next_commands.program("eval") == f"{next_commands.interpreter()} {program}"
