"""Progress in a notebook: one output that changes, without control characters."""

import io
import sys
import types

import pytest
from rich.console import Console
from rich.live import Live

from vistok.processes import notebook_output, progress_bar


class Output:
    """In place of IPython's handle of an output: what was drawn, in order."""

    def __init__(self):
        self.drawings, self.displays = [], 0

    def display(self, bundle, raw, display_id):
        assert raw and display_id
        self.displays += 1
        self.drawings.append(bundle)
        return self

    def update(self, bundle, raw):
        assert raw
        self.drawings.append(bundle)


@pytest.fixture
def output(monkeypatch):
    found = Output()
    module = types.ModuleType("IPython.display")
    module.display = found.display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(notebook_output, "EVERY", 0.001)
    return found


def test_a_bar_is_one_output_that_goes_away(output):
    console = Console(file=io.StringIO(), force_jupyter=True)
    with progress_bar.progress(console, "scoring", 40, 0) as advance:
        advance(10)
        while "10/40" not in output.drawings[-1]["text/plain"]:
            pass
    assert output.displays == 1 and "scoring" in output.drawings[0]["text/html"]
    assert output.drawings[-1]["text/plain"] == "" and not console.file.getvalue()
    for bundle in output.drawings:
        assert "\x1b" not in "".join(bundle.values()) and "\r" not in "".join(bundle.values())


def test_a_failure_ends_the_drawing(output):
    with pytest.raises(KeyError), progress_bar.progress(Console(force_jupyter=True), "x", 3, 0):
        raise KeyError
    number = len(output.drawings)
    assert output.drawings[-1]["text/plain"] == "" and number == len(output.drawings)


def test_text_that_stays(output):
    display = notebook_output.live_display("first", Console(force_jupyter=True))
    display.start()
    display.update("a < b")
    display.stop()
    assert output.drawings[0]["text/plain"] == "first"
    assert output.drawings[-1]["text/plain"] == "a < b" and "a &lt; b" in output.drawings[-1]["text/html"]


def test_the_kind_of_output_decides():
    assert notebook_output.live_display("x", Console(file=io.StringIO())) is None
    assert notebook_output.live_display("x", Console(force_jupyter=True, quiet=True)) is None
    assert isinstance(notebook_output.live_display("x", Console(force_terminal=True)), Live)
