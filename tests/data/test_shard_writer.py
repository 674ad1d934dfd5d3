"""Folders and arrays to shards."""

import io
import json
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistok.commands import data_shards
from vistok.data import shard_writer
from vistok.data.listings.array_file import array_in
from vistok.data.listings.opening import open_listing
from vistok.data.shard_writer import Samples
from vistok.data.tar_samples import images_in

CLASSES = ["n01 tench", "n02 shark, white"]


@pytest.fixture
def arrays(tmp_path):
    """Seven JPEG files back to back, of two classes."""
    files = []
    for i in range(7):
        file = io.BytesIO()
        Image.new("L", (8, 8), 30 * i).save(file, "JPEG")
        files.append(file.getvalue())
    path = tmp_path / "seven.npz"
    np.savez(
        path,
        data=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.array([0, 1, 0, 1, 0, 1, 1], dtype=np.int16),
        classes=np.array(CLASSES),
    )
    return path, files


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder):
    """All members of all shards, and the index."""
    found = {}
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        with tarfile.open(folder / shard["name"]) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                found[shard["name"], member.name] = archive.extractfile(member).read()
    return found, index


@pytest.mark.parametrize("names", [("a.npy",), ("a.npy", "b.NPY"), ("a.dcm", "b.png")])
def test_files_that_shards_would_pass_over_are_refused(tmp_path, names):
    for name in names:
        Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    count = sum(not name.endswith("png") for name in names)
    with pytest.raises(ValueError, match=f"has {count} files such as {names[0]}, which are not read from shards"):
        Samples(open_listing(str(tmp_path), "--images"))


def test_a_folder(photos, tmp_path):
    (photos / "more" / "03.b.jpg").write_bytes((photos / "01.png").read_bytes())
    (photos / "01.jpeg").write_bytes(b"not an image, but copied")
    data_shards.main(["--images", str(photos), "--out", str(tmp_path / "out"), "--per-shard", "4"])
    found, index = read(tmp_path / "out")
    assert index["images"] == 14 and [shard["images"] for shard in index["shards"]] == [4, 4, 4, 2]
    keys = {name: data for (_, name), data in found.items()}
    assert keys["more/00.jpg"] == (photos / "more" / "00.jpg").read_bytes()
    assert keys["more/03_b.jpg"] == (photos / "more" / "03.b.jpg").read_bytes()
    assert {"01.jpeg", "01-2.png"} <= set(keys) and len(keys) == 14
    names = [image.name for shard in index["shards"] for image in images_in(str(tmp_path / "out" / shard["name"]))]
    assert len(names) == 14 and names != sorted(names)
    data_shards.main(["--images", str(photos), "--out", str(tmp_path / "sorted"), "--in-order"])
    assert [image.name for image in images_in(str(tmp_path / "sorted" / "shard-000000.tar"))] == convert_order(photos)


def convert_order(photos):
    source = Samples(open_listing(str(photos), "--images"))
    return [f"{key}{Path(name).suffix}" for key, name in zip(source.keys, source.images.names, strict=True)]


def test_arrays(arrays, tmp_path):
    path, files = arrays
    data_shards.main(["--images", str(path), "--out", str(tmp_path / "out"), "--per-shard", "3", "--seed", "5"])
    found, index = read(tmp_path / "out")
    images = {name: data for (_, name), data in found.items()}
    assert [images[f"{i:08d}.jpg"] for i in range(7)] == files
    assert [images[f"{i:08d}.cls"] for i in range(7)] == [b"0", b"1", b"0", b"1", b"0", b"1", b"1"]
    assert index["classes"] == CLASSES and index["shuffle_seed"] == 5
    order = [int(name[:8]) for (_, name) in found if name.endswith("jpg")]
    assert order == np.random.default_rng(5).permutation(7).tolist()


@pytest.mark.parametrize("kind, number", [("folder", signal.SIGHUP), ("arrays", signal.SIGTERM)])
def test_interrupted_it_goes_on_to_the_same_bytes(kind, number, photos, arrays, tmp_path, monkeypatch, capsys):
    words = ["--images", str(photos if kind == "folder" else arrays[0])]
    data_shards.main([*words, "--out", str(tmp_path / "whole"), "--per-shard", "2"])
    written = []

    def write(path, *arguments, former=shard_writer.write_shard):
        if len(written) == 2:
            signal.raise_signal(number)
        written.append(path.name)
        former(path, *arguments)

    part = tmp_path / "part"
    with monkeypatch.context() as patched:
        patched.setattr(shard_writer, "write_shard", write)
        with pytest.raises(SystemExit) as ended:
            data_shards.main([*words, "--out", str(part), "--per-shard", "2"])
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == f"interrupted by {number.name}; the same command resumes\n"
    (part / ".shard-000002.tar.partial").write_bytes(b"half of it, by a process that was killed")
    assert set(contents(part)) == {"index.json.partial", ".shard-000002.tar.partial", *written}
    before = {name: (part / name).stat().st_mtime_ns for name in written}
    data_shards.main([*words, "--out", str(part), "--per-shard", "2"])
    assert contents(part) == contents(tmp_path / "whole")
    assert before == {name: (part / name).stat().st_mtime_ns for name in written}


def test_done_already_it_repairs(arrays, tmp_path):
    words = ["--images", str(arrays[0]), "--out", str(tmp_path / "out"), "--per-shard", "2"]
    data_shards.main(words)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "shard-000001.tar").unlink()
    (tmp_path / "out" / "shard-000002.tar").write_bytes(b"damaged")
    data_shards.main(words)
    assert contents(tmp_path / "out") == before


def test_another_conversion_is_refused(arrays, photos, tmp_path):
    path, _ = arrays
    out = tmp_path / "out"
    data_shards.main(["--images", str(path), "--out", str(out), "--per-shard", "2"])
    for words, message in (
        (["--images", str(path), "--per-shard", "3"], "holds another conversion: per_shard=2; here per_shard=3"),
        (["--images", str(path), "--per-shard", "2", "--seed", "1"], "shuffle_seed=0; here shuffle_seed=1"),
        (["--images", str(photos), "--per-shard", "2"], "source=seven.npz, .*here source=photos"),
    ):
        with pytest.raises(SystemExit, match=message):
            data_shards.main([*words, "--out", str(out)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shard-000000.tar").write_bytes(b"precious")
    with pytest.raises(SystemExit, match="mine exists already and has other files"):
        data_shards.main(["--images", str(path), "--out", str(tmp_path / "mine")])


@pytest.mark.parametrize("change, message", [
    ({"offsets": np.array([0, 5])}, "offsets must rise from 0 to the"),
    ({"offsets": np.array([0])}, "offsets must rise"),
    ({"labels": np.zeros(3, np.int16)}, "3 labels for 7 images"),
    ({"data": np.zeros(5, np.float32)}, "data must be bytes in a row, not float32"),
    ({"classes": np.array(["a", None], dtype=object)}, "allow_pickle=False"),
    ({"offsets": np.array(3)}, r"offsets must be a row of integers, not int64 of shape \(\)"),
    ({"offsets": np.array([0, 10**6, 0], np.uint64)}, "offsets must rise"),
    ({"labels": np.array(list("abcdefg"))}, "labels must be a row of integers, not <U1"),
])  # fmt: skip
def test_arrays_of_another_layout(arrays, tmp_path, change, message):
    path, _ = arrays
    with np.load(path) as former:
        np.savez(tmp_path / "other.npz", **dict(former) | change)
    with pytest.raises(SystemExit, match=message):
        data_shards.main(["--images", str(tmp_path / "other.npz"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[", "[]", "3", '{"shards": 3}', '{"shards": [{"name": "a"}]}', "[" * 100_000])
def test_an_index_that_is_none(photos, tmp_path, content):
    for name in ("index.json", "index.json.partial"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(content)
        with pytest.raises(SystemExit, match=f"out/{name} is not an index of shards"):
            data_shards.main(["--images", str(photos), "--out", str(tmp_path / "out")])
        (tmp_path / "out" / name).unlink()


def test_an_archive_that_claims_more_than_memory_holds(arrays, tmp_path):
    path, _ = arrays
    with np.load(path) as former, zipfile.ZipFile(tmp_path / "other.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in former.items():
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                file, np.lib.format.header_data_from_array_1_0(array) | ({"shape": (2**50,)} if name == "data" else {})
            )
            archive.writestr(f"{name}.npy", file.getvalue() + array.tobytes())
    with pytest.raises(SystemExit, match="other.npz: data cannot be read: "):
        data_shards.main(["--images", str(tmp_path / "other.npz"), "--out", str(tmp_path / "out")])


def test_what_there_is_not(photos, tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("other.npz", r"holds no images: images is float64 of shape \(3,\), .*data, offsets, labels, classes"),
        ("nowhere", "nowhere is not a folder or .*: there is no such file"),
        ("empty", "no images found"),
    ):
        with pytest.raises(SystemExit, match=message):
            data_shards.main(["--images", str(tmp_path / source), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--per-shard: must be at least 1, not 0"):
        data_shards.main(["--images", str(photos), "--out", str(tmp_path / "out"), "--per-shard", "0"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_stay_on_disk_where_they_can(tmp_path, save):
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    save(tmp_path / "a.npz", first=np.zeros(3), second=array, third=np.asfortranarray(array))
    for name in ("second", "third"):
        read = array_in(tmp_path / "a.npz", name)
        assert np.array_equal(read, array) and isinstance(read, np.memmap) == (save is np.savez)


def test_keys_are_safe_and_unique():
    files = ["a.b.png", "a_b.png", "a b.jpg", "a_b-2.jpg", "v1.0/ü.png", "__m__/x.jpg", ".hidden.png"]
    keys = shard_writer.safe_keys(files)
    assert keys == ["a_b", "a_b-2", "a_b-3", "a_b-2-2", "v1_0/_", "_m__/x", "_hidden"]
