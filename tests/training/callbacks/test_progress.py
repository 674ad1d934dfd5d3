"""Lines of a run that stay above the bar of a terminal."""

import io
import re

import pytest
from rich.console import Console

from vistok.training.callbacks import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_the_history_stays(train, tmp_path, monkeypatch, terminal):
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    monkeypatch.setattr(progress.ProgressLine.__init__, "__defaults__", (0.0, None))
    train(tmp_path / "run", "loss=l1", "optim.updates=3", "log.val_every=2")
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", printed) if line.startswith("update ")]
    training = r"  psnr [0-9.]+ dB · usage \d+% of at most \d+% .*· l1 [0-9.]+ · lr [0-9.e-]+"
    training += r" · [0-9.,]+ images/s · 0:\d\d left"
    held_out = r"  held out: psnr [0-9.]+ dB · psnr_bicubic [0-9.]+ dB · ssim .* · usage .* · l1 [0-9.]+"
    expected = [("1", training), ("2", training), ("2", held_out), ("3", training), ("3", held_out)]
    assert len(lines) == len(expected)
    for line, (update, text) in zip(lines, expected, strict=True):
        assert re.fullmatch(f"update {update}/3{text}", line), line
    assert ("training" in printed) == terminal  # the bar
