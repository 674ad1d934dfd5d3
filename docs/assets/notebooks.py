"""Runs the notebooks of the documentation and stores their outputs, which tests compare with the code.

    pip install nbclient ipykernel
    python docs/assets/notebooks.py    # after a change of a cell; it takes a minute

Outputs are kept small: warnings, colours of a terminal and second forms of pictures are left away.
"""

import base64
import hashlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

QUALITY = 65  # of the JPEG files in a notebook
FOLDER = Path(__file__).parent.parent / "notebooks"


def source_hash(cells: Iterable[dict]) -> str:
    """Hash of the code of all cells: the outputs belong to this code."""
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()


def execute(path: Path) -> None:
    """Runs a notebook in an empty folder, and writes it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}}).execute()
    content = json.loads(nbformat.writes(notebook))
    for number, cell in enumerate(content["cells"]):
        cell |= {"id": f"cell-{number}", "metadata": {}}
        if cell["cell_type"] == "code":
            cell["outputs"] = [stored(output) for output in cell["outputs"] if output.get("name") != "stderr"]
    content["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "source_sha256": source_hash(content["cells"]),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False).replace(sys.executable, "python")
    path.write_text(text + "\n")


def stored(output: dict) -> dict:
    """An output without colours of a terminal, and with one small form of each picture."""
    from PIL import Image

    data = output.get("data", {})
    if "image/jpeg" in data:
        data.pop("image/png", None)
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"])))
        picture.save(small := io.BytesIO(), "JPEG", quality=QUALITY)
        data["image/jpeg"] = base64.b64encode(small.getvalue()).decode()
    if "text/plain" in data:
        data["text/plain"] = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in data["text/plain"]]
    return output


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        execute(path)
