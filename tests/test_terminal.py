"""Text of files is shown in a terminal, and nothing in it is obeyed."""

import io

import pytest
import torch
from rich.console import Console

from vistok.data.batches import Batch
from vistok.data.skipped import Skipped
from vistok.terminal import say, stop, visible

SCREEN = "\x1b[2J"  # clears a terminal


@pytest.mark.parametrize(
    "text, shown",
    [
        ("photo.jpg", "photo.jpg"),
        ("Bürgersteig 日本\u202f5\xa0pm.png", "Bürgersteig 日本\u202f5\xa0pm.png"),  # macOS names screenshots so
        (f"a{SCREEN}b", "a\\x1b[2Jb"),
        ("a\nb\tc\r\x07", "a\\nb\\tc\\r\\x07"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),  # right to left
        ("caf\udce9.png", "caf\\udce9.png"),  # a name in Latin-1
        ("\x9b31m\u2028", "\\x9b31m\\u2028"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_messages_keep_their_lines_and_their_brackets():
    file = io.StringIO()
    console = Console(file=file, width=20, force_terminal=True, color_system=None)
    say(f"[/b] [red]x[/red] 12 {SCREEN}\nsecond line, longer than the console", "yellow", "label  ", console)
    assert file.getvalue() == "label  [/b] [red]x[/red] 12 \\x1b[2J\nsecond line, longer than the console\n"


def test_an_error_shows_what_it_quotes():
    with pytest.raises(SystemExit) as raised:
        stop(ValueError(f"{SCREEN}[/b].png is no image"))
    assert raised.value.code == "error: \\x1b[2J[/b].png is no image"


def test_an_unreadable_image_is_named_on_one_line(capsys):
    name = f"/data/a\nb{SCREEN}[/b].png"
    Skipped(1.0).note(Batch(torch.empty(0, 3, 8, 8), skipped=[f"{name}: cut short"]), 1)
    assert capsys.readouterr().out == "skipped: /data/a\\nb\\x1b[2J[/b].png: cut short\n"
