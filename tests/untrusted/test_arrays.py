"""Arrays of strangers: what is read is what numpy reads, and a header is only text."""

import io

import numpy as np
import pytest

from vistok.untrusted.arrays import read_array


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("array", [
    np.arange(24).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6, dtype="uint16").reshape(2, 3)),
    np.array(3.5),
    np.empty((0, 4), dtype="uint32"),
    np.array([True, False]),
    np.arange(3, dtype=">i4"),
], ids=str)  # fmt: skip
def test_good_arrays_read_as_numpy_reads_them(tmp_path, array):
    path = tmp_path / "a.npy"
    np.save(path, array)
    for found in (read_array(path, "it"), read_array(path, "it", mapped=True), read_array(path.read_bytes(), "it")):
        assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)


def header(text, values=b"", length=None, version=b"\1\0"):
    length = len(text) if length is None else length
    return b"\x93NUMPY" + version + length.to_bytes(2 if version == b"\1\0" else 4, "little") + text + values


GOOD = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize("content, message", [
    (header(GOOD.replace("(2,)", "(1000000000000,)").encode(), bytes(16)), r"claims int64 \(1000000000000,\), 16 "),
    (header(GOOD.replace("(2,)", "(9999999999999999999,)").encode(), bytes(16)), "its shape is"),
    (header(GOOD.replace("(2,)", "(281474976710655, 0)").encode(), bytes(16)), "16 bytes follow"),
    (header(GOOD.replace("(2,)", "(-2,)").encode(), bytes(16)), "its header is"),
    (header(GOOD.replace("(2,)", "(True,)").encode(), bytes(16)), "its header is"),
    (header(GOOD.replace("(2,)", f"({'1, ' * 9})").encode(), bytes(8)), "its shape is"),
    (header(GOOD.replace("'<i8'", "'|O'").encode(), bytes(16)), "holds |O, not numbers"),
    (header(GOOD.replace("'<i8'", "'<U2'").encode(), bytes(16)), "holds <U2, not numbers"),
    (header(GOOD.replace("'<i8'", "[('a', '<i8')]").encode(), bytes(16)), "its header is"),
    (header(GOOD.replace("False", "0").encode(), bytes(16)), "its header is"),
    (header(b"{'descr': '<i8', 'descr': '<i8', 'fortran_order': False, }", bytes(8)), "its header is"),
    (header(b"(" * 4_000), "its header is"),
    (header(b"-" * 4_000 + b"1"), "its header is"),
    (header(b"__import__('os').system('touch PWN')"), "its header is"),
    (header(b"x" * 60_000), "its header claims 60,000 bytes"),
    (header(GOOD.encode(), bytes(16), 2**31, b"\2\0"), "its header claims 2,147,483,648 bytes"),
    (header(GOOD.encode(), bytes(16), version=b"\x09\0"), "does not start like a .npy file"),
    (header(GOOD.encode(), bytes(15)), "15 bytes follow its header"),
    (header(GOOD.encode(), bytes(17)), "17 bytes follow its header"),
    (saved(np.array([{}]), allow_pickle=True), "not numbers"),
    (b"", "does not start like a .npy file"),
    (b"PK\3\4" + bytes(100), "does not start like a .npy file"),
])  # fmt: skip
def test_arrays_that_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    for file in (path, content):
        with pytest.raises(ValueError, match=f"it cannot be read as an array: .*{message}"):
            read_array(file, "it", mapped=True)
    assert [found.name for found in tmp_path.iterdir()] == ["a.npy"]
