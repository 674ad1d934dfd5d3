import io

import pytest
from rich.console import Console

from vistok.processes import progress_bar


def test_a_line_by_hand():
    shown = progress_bar.line("adm crops", 50_000, 1_200, 98.5)  # 48,800 / 98.5 = 495 s
    assert shown == "adm crops: 1,200 of 50,000 images, 98.5 images/s, 0:08:15 left"
    assert progress_bar.line("adm crops", 50_000, 1_200, 5.0).endswith("5.0 images/s, 2:42:40 left")
    assert progress_bar.line("adm crops", None, 1_200, 98.5) == "adm crops: 1,200 images, 98.5 images/s"


def test_a_line_every_ten_seconds_of_what_this_call_has_done(monkeypatch):
    now = iter([0.0, 4.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(now))
    file = io.StringIO()
    with progress_bar.progress(Console(file=file, width=40), "adm crops", 1000, 100) as advance:
        for seen in (140, 210, 220, 320):
            advance(seen)
    assert file.getvalue().splitlines() == [
        "adm crops: 210 of 1,000 images, 10.0 images/s, 0:01:19 left",  # 110 images in 11 s
        "adm crops: 320 of 1,000 images, 10.0 images/s, 0:01:08 left",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_quiet_console_says_nothing(monkeypatch, terminal):
    monkeypatch.setattr(progress_bar, "EVERY", 0.0)
    file = io.StringIO()
    with progress_bar.progress(Console(file=file, quiet=True, force_terminal=terminal), "x", 10, 0) as advance:
        advance(5)
    assert not file.getvalue().strip("\x1b[?25lh\n")
