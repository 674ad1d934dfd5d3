"""Which files of a folder are its images, and which subfolders are its splits."""

import os
from pathlib import Path

import pytest
from PIL import Image

from vistok.data import folder
from vistok.data.folder_listing import list_images, nothing_found
from vistok.data.folder_splits import split_of
from vistok.data.listings.opening import open_listing
from vistok.tokens.sources import open_source


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(root / name)


def test_links_are_followed_and_loops_end(tmp_path):
    images(tmp_path / "all", "cat/a.png", "dog/b.png")
    images(tmp_path / "set", "own/c.png")
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "all" / name)
    (tmp_path / "set" / "own" / "d.jpg").symlink_to(tmp_path / "all" / "cat" / "a.png")
    (tmp_path / "set" / "own" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "all" / "cat" / "self").symlink_to(tmp_path / "all" / "cat")
    assert list_images(tmp_path / "set") == ["cat/a.png", "dog/b.png", "own/c.png", "own/d.jpg"]
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(list_images(tmp_path / "link")) == 4


def test_two_links_to_one_folder_are_two_classes_and_a_broken_link_is_reported(tmp_path):
    images(tmp_path / "all", "a.png", "b.png")
    for name in ("first", "second"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to(tmp_path / "all")
    (tmp_path / "set" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set" / "nowhere").symlink_to(tmp_path / "nowhere")
    data = folder(str(tmp_path / "set"), 32, 1, val_count=1, max_unreadable=0.5)
    assert data.test.names() == ["first/a.png", "first/b.png", "gone.png", "second/a.png", "second/b.png"]
    gone = data.test[0, 2]
    assert gone.image is None and "gone.png: FileNotFoundError" in gone.skipped[0]


def test_what_is_hidden_is_no_image(tmp_path):
    images(tmp_path, "a.PNG", "b/c.jpeg", ".hidden.png", ".ipynb_checkpoints/a-checkpoint.png")
    images(tmp_path, "__MACOSX/b/c.png", "b/._c.png")
    for name in ("labels.csv", "b/c.json", "mask.h5", "jpg"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a.PNG", "b/c.jpeg"]
    (tmp_path / "pictures.jpg").mkdir()
    images(tmp_path, "pictures.jpg/d.webp")
    assert list_images(tmp_path) == ["a.PNG", "b/c.jpeg", "pictures.jpg/d.webp"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere cannot be listed: No such file"):
        list_images(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_class_without_permission_is_an_error(tmp_path):
    images(tmp_path, "a/b.png", "c/d.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(ValueError, match="a cannot be listed: Permission denied"):
        list_images(tmp_path)


def test_no_images_says_what_is_there(tmp_path):
    assert "it has no files; read are " in nothing_found(tmp_path)
    for name in ("a.h5", "b.h5", "c/d.nii", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    message = nothing_found(tmp_path)
    assert "it has only files of other kinds (2 of .h5, 1 of " in message and ".png" in message
    for read in (
        lambda: folder(str(tmp_path), 32, 2),
        lambda: open_source([str(tmp_path)], 5),
        lambda: open_listing(str(tmp_path), "--images"),
    ):
        with pytest.raises(ValueError, match="2 of .h5"):
            read()


@pytest.mark.parametrize("train, val, test", [
    ("train", "val", None), ("train", "validation", "test"), ("Training", "Valid", "Testing"), ("train", "dev", "eval"),
])  # fmt: skip
def test_splits_by_their_names(tmp_path, train, val, test):
    names = [f"{train}/{i}.png" for i in range(5)] + [f"{val}/a/v.png"]
    images(tmp_path, *names, *([f"{test}/t.png"] if test else []))
    data = folder(str(tmp_path), 32, 2)
    assert data.train.names() == names[:5] and data.val.names() == data.test.names() == [f"{val}/a/v.png"]
    assert bool(data.notes) == bool(test)
    if test:
        assert f"{test} is neither trained on nor scored" in data.notes[0]


def test_a_test_split_is_never_trained_on(tmp_path):
    """Without validation images some of the training images are held out, and the test images are scored."""
    images(tmp_path, *(f"train/{i}.png" for i in range(5)), "test/t.png", "extra/e.png")
    data = folder(str(tmp_path), 32, 2, val_count=2)
    assert len(data.train) == 3 and len(data.val) == 2 and data.test.names() == ["test/t.png"]
    assert {name.partition("/")[0] for name in (*data.train.names(), *data.val.names())} == {"train"}
    assert data.notes == [f"not read beside train, test: {tmp_path / 'extra'}"]


def test_classes_with_the_names_of_splits(tmp_path):
    """``train`` alone is a class of vehicles; so are ``valid`` and ``test`` beside other classes."""
    images(tmp_path, "bus/a.png", "train/b.png")
    assert split_of(tmp_path) is None and len(folder(str(tmp_path), 32, 2).test) == 2
    images(tmp_path / "forms", "valid/a.png", "test/b.png", "other/c.png")
    assert split_of(tmp_path / "forms") is None


@pytest.mark.parametrize("names, message", [
    (("train", "val", "validation"), "has val and validation, which both look like its val split"),
    (("validation", "test"), "has test, validation but no folder of images to train on"),
    (("train", "val"), "no images found in .*val: it has no files"),
])  # fmt: skip
def test_splits_that_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).mkdir()
    images(tmp_path, f"{names[0]}/a.png")
    with pytest.raises(ValueError, match=message):
        folder(str(tmp_path), 32, 2)


def test_a_command_takes_one_split(tmp_path):
    images(tmp_path, "train/a.png", "test/b.png")
    for read in (lambda root: open_listing(str(root), "--images"), lambda root: open_source([str(root)], 5)):
        with pytest.raises(ValueError, match="has the splits train, test: name one of them"):
            read(tmp_path)
