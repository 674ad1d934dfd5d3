"""Arrays of strangers' ``.npz`` files: read as numpy reads them, and never larger than allowed."""

import zipfile

import numpy as np
import pytest

from vistok.untrusted.zipped_arrays import read_arrays, read_texts

ARRAYS = {"a": np.arange(5.0), "b/c": np.arange(6, dtype="int16").reshape(2, 3)}
TEXTS = ["x.png", "ä/漢.png", ""]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_good_arrays_read_as_numpy_reads_them(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, names=np.array(TEXTS), **ARRAYS)
    found = read_arrays(path, ["a", "b/c", "missing"])
    assert found.keys() == ARRAYS.keys() and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    assert read_texts(path, "names") == TEXTS


def refused(path) -> str:
    with pytest.raises(ValueError, match=f"^{path} cannot be read as arrays: ") as error:
        read_arrays(path, ["a"], most=2000)
    return str(error.value)


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(10**6))  # 8 MB in a few kB
    assert "'a.npy' has more than 2,000 bytes" in refused(path)
    np.savez(path, a=np.array([{}]))
    assert "holds |O, not numbers" in refused(path)
    np.savez(path, a=np.array(["text"]))
    assert "holds <U4, not numbers" in refused(path)
    np.savez(path, a=np.zeros(9))
    content = path.read_bytes()
    for damage in (content[:-30], content.replace(bytes(30), b"\1" * 30, 1), b"", b"no zip"):
        path.write_bytes(damage)
        refused(path)
    path.unlink()
    refused(path)


def test_texts_that_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, numbers=np.zeros(3), codes=np.frombuffer(b"\xff" * 8, "<u4").view("<U1"))
    np.savez(tmp_path / "half.npz", names=np.array(["\ud800"]))
    with pytest.raises(ValueError, match="half.npz cannot be read as arrays: names has characters that do not exist"):
        read_texts(tmp_path / "half.npz", "names")
    for name, message in (
        ("missing", "has no missing"),
        ("numbers", "holds <f8, not texts"),
        ("codes", "do not exist"),
    ):
        with pytest.raises(ValueError, match=f"^{path} cannot be read as arrays: .*{message}"):
            read_texts(path, name)


def test_a_large_list_of_members_is_not_read(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(70):
            archive.writestr(f"{'x' * 60_000}{i}", b"")
    assert "its list of members claims 4," in refused(path)
