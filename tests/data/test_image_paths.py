"""Kinds of image sources."""

from pathlib import Path

import pytest

from vistok.data.image_paths import ImagePath, find_images

ANY = ("folder", "split", "sample", "arrays", "shards")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("images", "both/train", "both/val"):
        Path(folder).mkdir(parents=True)
    for file in ("a-0.tar", "a-1.tar", "set.npz"):
        Path(file).touch()


@pytest.mark.parametrize("source, kind, path, shards", [
    ("images", "folder", "images", ()),
    (["images"], "folder", "images", ()),
    ("both", "split", "both", ()),
    ("both/train", "folder", "both/train", ()),
    ("set.npz", "arrays", "set.npz", ()),
    ("sample", "sample", "sample", ()),
    ("a-{0..1}.tar", "shards", ".", ("a-0.tar", "a-1.tar")),
    ("a-*.tar", "shards", ".", ("a-0.tar", "a-1.tar")),
    (["a-1.tar", "a-0.tar"], "shards", ".", ("a-1.tar", "a-0.tar")),
    ("https://host/a.tar", "shards", ".", ("https://host/a.tar",)),
])  # fmt: skip
def test_kinds(here, source, kind, path, shards):
    assert find_images(source, "images", ANY) == ImagePath(kind, Path(path), shards)


def test_home_and_a_folder_of_the_name(here, tmp_path):
    assert find_images("~/images", "images", ANY).path == tmp_path / "images"
    Path("sample").mkdir()
    assert find_images("sample", "images", ANY).kind == "folder"


@pytest.mark.parametrize("source, kinds, message", [
    ("nowhere", ("folder", "split"), "data=nowhere is not a folder"),
    ("set.npz", ("folder", "shards"), "data=set.npz is not a folder or shards"),
    ("sample", ("folder", "split", "shards"), "data=sample is not a folder or shards"),
    ("images", ("shards",), "data=images is not shards"),
    ("b.tar", ANY, "data: there is no shard b.tar"),
    (["images", "both"], ANY, "data is one folder, one file or several shards, not images both"),
    (["a-0.tar", "images"], ANY, "data is one folder, one file or several shards, not a-0.tar images"),
])  # fmt: skip
def test_refusals(here, source, kinds, message):
    with pytest.raises(ValueError, match=message):
        find_images(source, "data", kinds)
