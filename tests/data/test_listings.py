"""The same images from every source that is listed: names, pixels, labels, captions and splits."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.commands import data_shards, data_thresholds
from vistok.data import folder, shards
from vistok.data.listings.array_file import as_file
from vistok.data.listings.listing import Wanted
from vistok.data.listings.opening import open_listing, open_splits
from vistok.data.listings.splits import held_out
from vistok.images.decoding import read_rgb
from vistok.images.rgb import UnreadableImage

ALL = Wanted("known", "known")
ROWS = [
    {"path": f"{kind}/{i}.png", "label": kind, "caption": f"{kind} {i}", "split": split}
    for i, split in enumerate(["train", "train", "train", "validation", "test"])
    for kind in ("cat", "ant")
]


@pytest.fixture
def photos(tmp_path):
    """Ten images in two class folders, with captions beside them."""
    rng = np.random.default_rng(0)
    for row in ROWS:
        path = tmp_path / "photos" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(row["caption"] + "\n")
    return tmp_path / "photos"


def write_table(path, rows):
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_manifest_has_what_its_folder_has(photos, suffix):
    plain = open_listing(str(photos), "--images", ALL)
    rows = [{name: row[name] for name in ("path", "label", "caption")} for row in ROWS]
    table = open_listing(write_table(photos / f"list{suffix}", rows), "--images", ALL)
    assert list(table.names) == [row["path"] for row in ROWS] and table.classes == plain.classes == ("ant", "cat")
    by_name = {name: i for i, name in enumerate(plain.names)}
    for i, name in enumerate(table.names):
        other = by_name[name]
        assert table.open(i) == plain.open(other) and table.label(i) == plain.label(other)
        assert table.caption(i) == plain.caption(other) == ROWS[i]["caption"]
    assert len(open_listing(str(photos), "--images", Wanted()).names) == 10  # tables and texts are no images


def test_splits_of_a_table(photos, capsys):
    source = write_table(photos / "list.csv", ROWS)
    data = folder(source, 32, 2, labels=True, captions=True)
    assert data.train.names() == [row["path"] for row in ROWS[:6]] and data.val.names() == ["cat/3.png", "ant/3.png"]
    assert data.test.names() == data.val.names() and "2 images of its test are neither trained on" in data.notes[0]
    (batch,) = data.val_dataloader()
    assert batch.labels.tolist() == [1, 0] and list(batch.captions) == ["cat 3", "ant 3"]
    of_test = folder(f"{source}@test", 32, 2)
    assert of_test.test.names() == ["cat/4.png", "ant/4.png"]
    with pytest.raises(ValueError, match="has the splits train, val, test: name one of them, such as .*list.csv@train"):
        open_listing(source, "--images")
    with pytest.raises(ValueError, match="there is no split 'rest', but train, val, test"):
        open_listing(f"{source}@rest", "--images")
    only = write_table(photos / "only.csv", ROWS[:6])
    assert len(open_listing(f"{only}@train", "--images")) == len(open_listing(only, "--images")) == 6


def test_images_of_unknown_splits_are_named_where_they_are_not_read(photos, capsys):
    """As a command reads a table that has images to train on, and others for nothing that is known."""
    rows = [row | {"split": "train" if row["split"] == "train" else "holdout"} for row in ROWS]
    table = write_table(photos / "list.csv", rows)
    assert len(open_listing(table, "--images")) == 6
    assert "not read: 4 images of the splits 'holdout' of --images=" in " ".join(capsys.readouterr().out.split())


def test_numbers_stay_and_other_columns_are_chosen(photos):
    rows = [{"file": row["path"], "image": "x", "kind": 7 + i} for i, row in enumerate(ROWS)]
    source = write_table(photos / "list.jsonl", rows)
    with pytest.raises(ValueError, match=r"columns file and image, each .* 'data.columns=\{image: file\}' chooses"):
        open_splits(source, "data.root")
    images = open_splits(source, "data.root", ALL, {"image": "file", "label": "kind"}).train
    assert [images.label(i) for i in (0, 9)] == [7, 16] and images.classes is None
    with pytest.raises(ValueError, match="no column 'klass' .data.columns.label., but file, image, kind"):
        open_splits(source, "data.root", ALL, {"image": "file", "label": "klass"})
    with pytest.raises(ValueError, match="data.columns names columns of image, label, caption and split, not mask"):
        open_splits(source, "data.root", ALL, {"mask": "file"})


@pytest.mark.parametrize("text, message", [
    ("path\n", "has no images"),
    ("a,b\n1,2\n", "has no column with the paths of images, such as path, but a, b"),
    ("path,label\na.png,0\na.png,1\n", "lists a.png twice"),
    ("path,label\na.png\n", "line 2 has not 2 values, as the first line"),
    ("path\nhttps://host/a.png\n", "images of a table are files, not URLs"),
    ("path\n\"\"\n", "image 1 has the path '', which is not text"),
    ("path,label,split\na.png,1,rest\n", "none of its splits 'rest' is train, val or test"),
    ("path,label\na.png,\n", "image 1 has no label"),
    ("path,label\na.png,-3\n", "a label is -3, not from 0"),
    ("path,caption\na.png,b\n", "data.labels=true: .* has no column label"),
])  # fmt: skip
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_splits(str(tmp_path / "list.csv"), "data.root", Wanted("needed"))


def test_a_table_that_cannot_be_read(tmp_path):
    for name, content, message in (
        ("a.csv", b"path\n\xff\xfe.png\n", "cannot be read"),
        ("a.jsonl", b"[1]\n", "line 1 is not an object"),
        ("a.jsonl", b"{]\n", "line 1 is not JSON"),
        ("a.jsonl", b'{"path": "a"}\n{"path": "b", "label": 1}\n', "image 2 has the column label, which the first"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_splits(str(tmp_path / name), "data.root")


def test_arrays(photos, tmp_path):
    """Images in one array, by their names, and with other types, all as in the folder."""
    plain = open_listing(str(photos), "--images")
    pixels = np.stack([np.asarray(read_rgb(plain.open(i))) for i in range(10)])
    for name, arrays in (("one", {"arr_0": pixels}), ("named", {f"n{i}": own for i, own in enumerate(pixels)})):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        data = folder(str(tmp_path / f"{name}.npz"), 32, 4, val_count=2)
        assert len(data.train) == 8 and len(data.test) == 10
        expected = folder(str(photos), 32, 4).test
        assert all(torch.equal(data.test[0, i].image, expected[0, i].image) for i in range(10))
    np.savez(tmp_path / "deep.npz", arr_0=pixels.astype(np.uint16)[..., :2])
    deep = folder(str(tmp_path / "deep.npz"), 40, 4, resize=0, channels=2, range=[0, 255], crop="center")
    expected = torch.from_numpy(pixels[3, :, 2:42, :2]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(deep.test[0, 3].image, expected, atol=1e-6)
    assert read_rgb(as_file(pixels[0])).tobytes() == pixels[0].tobytes()


def test_the_images_held_out_are_drawn_as_ever(photos):
    images = open_listing(str(photos), "--images")
    chosen = set(np.random.default_rng(5).permutation(10)[:3].tolist())
    train, val = held_out(images, 3, 5)
    assert list(val.names) == [name for i, name in enumerate(images.names) if i in chosen]
    assert list(train.names) == [name for i, name in enumerate(images.names) if i not in chosen]
    assert train.part([1, 0]).names[0] == train.names[1] and list(train.names[2:4]) == list(train.names)[2:4]


def test_captions_of_files_and_tars(photos, tmp_path):
    (batch, *_) = folder(str(photos), 32, 10, captions=True).test_dataloader()
    assert list(batch.captions) == [f"{name[:3]} {name[4]}" for name in batch.names]
    data_shards.main(["--images", str(photos), "--out", str(tmp_path / "tars"), "--in-order"])
    tars = str(tmp_path / "tars" / "*.tar")
    (again,) = shards(tars, tars, 32, 10, labels=True, captions=True).val_dataloader()
    assert again.captions == batch.captions and again.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(again.images, batch.images)
    (photos / "ant" / "0.txt").unlink()
    sample = folder(str(photos), 32, 10, captions=True).test[0, 0]
    assert sample.image is None and "its caption 0.txt cannot be read" in sample.skipped[0]
    with tarfile.open(tmp_path / "none.tar", "w") as archive:
        data = (photos / "cat" / "0.png").read_bytes()
        member = tarfile.TarInfo("a.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    none = shards(None, str(tmp_path / "none.tar"), 32, 1, captions=True)
    (batch,) = none.val_dataloader()
    assert not batch.names and "no caption KEY.txt beside it" in batch.skipped[0]


def test_conversion_of_other_sources(photos, tmp_path):
    table = write_table(photos / "list.csv", ROWS)
    data_shards.main(["--images", f"{table}@train", "--out", str(tmp_path / "tars"), "--in-order"])
    index = json.loads((tmp_path / "tars" / "index.json").read_text())
    assert index["images"] == 6 and index["kind"] == "manifest" and index["classes"] == ["ant", "cat"]
    with tarfile.open(tmp_path / "tars" / "shard-000000.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    assert members["cat/1.png"] == (photos / "cat" / "1.png").read_bytes()
    assert members["cat/1.cls"] == b"1" and members["ant/2.txt"] == b"ant 2"
    pixels = np.asarray(Image.open(photos / "cat" / "1.png"))
    np.savez(tmp_path / "one.npz", arr_0=pixels[None])
    data_shards.main(["--images", str(tmp_path / "one.npz"), "--out", str(tmp_path / "arrays")])
    with tarfile.open(tmp_path / "arrays" / "shard-000000.tar") as archive:
        assert np.array_equal(np.asarray(Image.open(archive.extractfile("00000000.png"))), pixels)
    np.savez(tmp_path / "deep.npz", arr_0=pixels[None].astype(np.float32))
    with pytest.raises(SystemExit, match="deep.npz:00000000: it is an array that is not uint8"):
        data_shards.main(["--images", str(tmp_path / "deep.npz"), "--out", str(tmp_path / "deep")])


def test_thresholds_of_every_source(photos, tmp_path):
    data_shards.main(["--images", str(photos), "--out", str(tmp_path / "tars"), "--in-order"])
    table = write_table(photos / "list.csv", [{"path": row["path"]} for row in ROWS])
    found = []
    for n, source in enumerate([str(photos), table, str(tmp_path / "tars" / "shard-000000.tar")]):
        out = tmp_path / f"{n}.json"
        words = [
            "--images",
            source,
            "--out",
            str(out),
            "--image-size",
            "32",
            "--num-workers",
            "0",
            "--num-images",
            "10",
        ]
        data_thresholds.main(words)
        found.append(json.loads(out.read_text()))
    assert [own["regions"] for own in found] == [36, 36, 40]  # a twentieth, one image, is held out of a listing


def test_shards_are_named_where_a_listing_is_asked_for(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(ValueError, match="shards are read by data=shards 'data.urls=.*a.tar'"):
        folder(str(tmp_path / "a.tar"), 32, 2)
    with pytest.raises(UnreadableImage):
        folder(f"{_zeros(tmp_path)}", 32, 2, val_count=1).test.listing.open(1)


def _zeros(tmp_path):
    """An archive with one good image and one that is damaged."""
    np.savez(tmp_path / "two.npz", a=np.zeros((8, 8, 3), np.uint8), b=np.zeros((8, 8, 3), np.uint8))
    data = (tmp_path / "two.npz").read_bytes()
    at = data.rindex(b"\x93NUMPY")
    (tmp_path / "two.npz").write_bytes(data[:at] + b"\x94NUMPY" + data[at + 6 :])
    return tmp_path / "two.npz"
