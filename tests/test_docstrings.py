"""Docstrings of the public interface that a notebook shows."""

import re
from pathlib import Path
from pydoc import locate

import vistok

ROOT = Path(__file__).parent.parent
ENTRIES = [
    name for page in (ROOT / "docs/api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
]


def test_every_field_of_a_result_is_described():
    tuples = [own for own in map(locate, ENTRIES) if hasattr(own, "_fields")]
    assert {"Quantized", "Codes", "Context", "Layout", "Table", "Batch", "Autoencoded"} <= {t.__name__ for t in tuples}
    for own in tuples:
        _, _, attributes = own.__doc__.partition("Attributes:\n")
        assert re.findall(r"^        (\w+): \S", attributes, re.M) == list(own._fields), own


def test_examples_run(tmp_path, monkeypatch):
    """Those of ``vistok`` itself and of ``show``."""
    monkeypatch.chdir(tmp_path)
    names = {"vistok": vistok}
    vistok.write_image(vistok.load("sample").detokenize([[[[3] * 4] * 4]]), "photo.jpg")
    (code,) = re.findall(r"\n\n((?:    .*\n)+)", vistok.__doc__)
    exec(code.replace("    ", "").replace("size=256", "size=32"), names)
    assert names["codes"].shape == (1, 1, 4, 4)
    (code,) = re.findall(r"```python\n(.*?)```", vistok.show.__doc__, re.DOTALL)
    exec(re.sub(r"^ +", "", code, flags=re.M), names)
    assert len(names["rows"]) == 3
