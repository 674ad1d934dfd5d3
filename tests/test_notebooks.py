"""Notebooks of the documentation: their code runs, and their stored outputs are those of this code."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = runpy.run_path(str(ROOT / "docs" / "assets" / "notebooks.py"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000
LONG = 'train("optim.updates=20", "log.every=2", "log.val_every=20")'
SHORT = """train("trainer=debug", "optim.updates=4", "backbone.encoder.channels=8")"""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text())


def code_of(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_its_code_runs(notebook, tmp_path, monkeypatch):
    """The cells one after the other in this process, with a shorter training."""
    monkeypatch.chdir(tmp_path)
    cells = code_of(notebook)
    assert sum(LONG in cell for cell in cells) == 1
    names = {}
    for cell in cells:
        exec(compile(cell.replace(LONG, SHORT), "cell", "exec"), names)
    assert str(names["run"].parent) == "runs/sample-encoder.channels8-debug" and (names["run"] / "curves.png").is_file()
    assert (
        names["codes"].shape == (3, 1, 16, 16) and names["psnr"](names["reconstructions"], names["images"]).min() > 15
    )
    assert names["report"]["scores"][0]["metrics"]["images"] == 70


def test_its_outputs_belong_to_its_code(notebook):
    """``python docs/assets/notebooks.py`` writes them."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["metadata"]["source_sha256"] == TOOL["source_hash"](notebook["cells"])
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and all(cell["outputs"] for cell in cells)
    pictures = [output for cell in cells for output in cell["outputs"] if "image/jpeg" in output.get("data", {})]
    assert len(pictures) >= 3
    (training,) = [cell["outputs"] for cell in cells if LONG in "".join(cell["source"])]
    text = "".join("".join(output["data"]["text/plain"]) for output in training)
    assert text.count("20/20 updates") == 1 and len(training) < 20  # one bar, drawn again in its place


def test_they_are_small_and_plain(notebook):
    for path in NOTEBOOKS:
        text = path.read_text()
        assert len(text) < MOST_BYTES and not re.search(r"\\u001b|\\r|/tmp/|/home/|/root/", text)


def test_links_of_notebooks_lead_somewhere(notebook):
    targets = re.findall(r"\]\(([^)\s]+)\)", "".join("".join(cell["source"]) for cell in notebook["cells"]))
    assert targets and all((ROOT / "docs" / "notebooks" / target).is_file() for target in targets)
