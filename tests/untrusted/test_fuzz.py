"""The checks of ``benchmarks/fuzz_reading.py``, with 200 damaged files of each reader."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "fuzz_reading.py"
spec = importlib.util.spec_from_file_location("fuzz_reading", SCRIPT)
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_damaged_files_are_read_or_refused(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 30.0)  # as slow as a busy machine may be
    counts = fuzz.run(reader, 200, seed=1, folder=tmp_path / "fuzz")
    assert counts.refused + counts.read == 200 and counts.refused > 50


def test_a_reader_that_fails_is_seen(tmp_path, monkeypatch):
    def read(folder):
        text = next(folder.glob("*.json")).read_bytes()
        if text.startswith(b"["):
            bytearray(2**30)
        raise KeyError("grid") if b'"grid"' not in text else ValueError(f"{folder} is wrong")

    for error in ("KeyError: 'grid'", "MemoryError"):
        good = iter([False] * 3)  # the three examples are read first
        monkeypatch.setitem(
            fuzz.READERS,
            "bad",
            fuzz.Reader(fuzz.stores, "index.json", lambda folder, good=good: next(good, True) and read(folder)),
        )
        monkeypatch.setattr(fuzz, "of_json", lambda content, draw, e=error: b"[]" if e == "MemoryError" else b"{}")
        with pytest.raises(fuzz.Failure, match=error):
            fuzz.run("bad", 50, seed=0, folder=tmp_path / error[:3])
