"""Training from Python: the folder of the run that is returned."""

import json
from pathlib import Path

from vistok.training.from_python import train

WORDS = ("trainer=debug", "loss=l1", "schedule=constant", "backbone.encoder.channels=8", "data.image_size=32")


def test_runs_are_named_as_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(*WORDS, "optim.updates=1")
    assert run.parent == Path("runs") / "sample-l1-constant-encoder.channels8-image_size32-debug"
    assert (run / "tokenizer").is_dir()
    assert train(*WORDS, "optim.updates=2", "run.resume=auto") == run
    assert json.loads((run / "metrics.json").read_text())["updates"] == 2
    assert train(*WORDS, "run.dir=mine") == Path("mine") and Path("mine", "tokenizer").is_dir()
