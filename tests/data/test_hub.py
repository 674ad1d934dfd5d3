"""Hugging Face data sets that ``datasets`` saved or reads: splits, images, labels, captions, and refusals."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.__main__ import main
from vistok.data import folder
from vistok.data.image_paths import kind_of
from vistok.data.listings.listing import Wanted
from vistok.data.listings.opening import open_listing, open_splits
from vistok.images.rgb import UnreadableImage
from vistok.tokens import TokenStore

datasets = pytest.importorskip("datasets")
BOTH = Wanted("needed", "needed")


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows(first: int, count: int, path=None):
    """A split of so many images with labels and captions."""
    numbers = range(first, first + count)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "cat"]), text=datasets.Value("string")
    )
    images = [{"bytes": png(i), "path": path and path.format(i)} for i in numbers]
    content = {"image": images, "label": [i % 2 for i in numbers], "text": [f"number {i}" for i in numbers]}
    return datasets.Dataset.from_dict(content, features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved set of three splits, and the same images as a folder."""
    root = tmp_path_factory.mktemp("hub")
    splits = {"train": rows(0, 8, "{}.png"), "validation": rows(8, 4), "test": rows(12, 3, "same.png")}
    datasets.DatasetDict(splits).save_to_disk(str(root / "set"))
    for split, numbers in (("train", range(8)), ("validation", range(8, 12))):
        for i in numbers:
            file = root / "photos" / split / ("ant", "cat")[i % 2] / f"{i:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(i))
    return root


def test_splits_of_a_saved_set(saved):
    splits = open_splits(f"{saved}/set", "data.root", BOTH)
    assert [len(own) for own in splits[:3]] == [8, 4, 3] and splits.to_score() is splits.val
    assert splits.notes == (f"data.root={saved}/set@test is neither trained on nor scored, unless it is named",)
    assert list(splits.train.names) == [f"{i}.png" for i in range(8)]  # paths, where they tell images apart
    assert list(splits.val.names) == ["0", "1", "2", "3"] and list(splits.test.names) == ["0", "1", "2"]
    assert [splits.val.open(i).read() for i in (3, 0)] == [png(11), png(8)]
    assert [splits.train.label(i) for i in range(3)] == [0, 1, 0] and splits.train.classes == ("ant", "cat")
    assert splits.train.caption(5) == "number 5" and splits.train.part([7, 5]).caption(0) == "number 7"
    plain = open_splits(f"{saved}/set", "data.root").train
    assert plain.label(0) is None and plain.caption(0) is None and plain.classes is None


@pytest.mark.parametrize("name, first, count", [("test", 12, 3), ("val", 8, 4), ("validation", 8, 4)])
def test_one_split(saved, name, first, count):
    split = open_listing(f"{saved}/set@{name}", "--images", Wanted("known"))
    assert len(split) == count and split.open(0).read() == png(first)
    alone = open_listing(f"{saved}/set/{'test' if name == 'test' else 'validation'}", "--images")
    assert len(alone) == count and alone.open(0).read() == png(first)


def test_a_run_on_a_saved_set_is_one_on_its_folder(saved, train, tmp_path):
    """The same images in the same order give the same weights; labels and the hashes of the pixels are equal."""
    ours, theirs = folder(f"{saved}/set", 16, 4, labels=True), folder(f"{saved}/photos", 16, 4, labels=True)
    by_name = {sample.name[-6:]: sample for sample in (theirs.val[0, k] for k in range(4))}
    for i in range(4):
        sample, same = ours.val[0, i], by_name[f"{i + 8:02d}.png"]
        assert torch.equal(sample.image, same.image) and sample.label == same.label and sample.sha256 == same.sha256
    for i in range(12):
        (tmp_path / "flat" / ("train" if i < 8 else "val")).mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / ("train" if i < 8 else "val") / f"{i:02d}.png").write_bytes(png(i))
    weights = []
    for root in (f"{saved}/set", f"{tmp_path}/flat"):
        words = ["data=folder", f"data.root={root}", "data.num_workers=0", "data.batch_size=4", "data.flip=true"]
        run = train(tmp_path / f"run{len(weights)}", *words, "loss=l1")
        weights.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(own, weights[1][name]) for name, own in weights[0].items())


def test_tokens_of_a_saved_set(saved, trained, tmp_path):
    for images in ("set@train", "photos/train"):
        out = str(tmp_path / images[:3])
        main(["tokenize", str(trained), "--images", f"{saved}/{images}", "--out", out, "--image-size", "16",
              "--num-workers", "0"])  # fmt: skip
    ours, theirs = TokenStore(tmp_path / "set"), TokenStore(tmp_path / "pho")
    assert ours.header.classes == theirs.header.classes == ("ant", "cat") and ours.labels.tolist() == [0, 1] * 4
    place = {name: i for i, name in enumerate(theirs.names)}
    for i, label in enumerate(ours.labels.tolist()):
        assert np.array_equal(ours.codes(i), theirs.codes(place[f"{('ant', 'cat')[label]}/{i:02d}.png"]))


def test_a_local_folder_by_the_name_of_a_hub(saved, monkeypatch, tmp_path):
    """``datasets`` itself finds parquet files of splits in a folder; no code is run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "pushed" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        own = datasets.load_from_disk(f"{saved}/set/{split}")
        own.to_parquet(str(tmp_path / "pushed" / "data" / f"{split}-00000-of-00001.parquet"))
    splits = open_splits(f"hf:{tmp_path}/pushed", "data.root", BOTH)
    assert (len(splits.train), splits.val, len(splits.test)) == (8, None, 3)
    assert splits.test.open(2).read() == png(14) and splits.test.label(1) == 1
    assert len(open_listing(f"hf:{tmp_path}/pushed@test", "--images")) == 3
    assert splits.train.root != splits.test.root and all(Path(file).is_file() for file in splits.train.files())


def test_what_cannot_be_read_is_refused(saved, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="set@dev2: there is no split 'dev2', but train, validation, test"):
        open_splits(f"{saved}/set@dev2", "data.root")
    with pytest.raises(ValueError, match=r"set has the splits train, val, test: name one of them, such as .*set@train"):
        open_listing(f"{saved}/set", "--images")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=f"data.root={tmp_path} cannot be read: "):
        open_splits(str(tmp_path), "data.root")
    asked = []

    def unreachable(*words, **named):
        asked.append((words, named))
        raise ConnectionError("Couldn't reach 'user/photos' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for name in ("hf:user/photos/small@train", "hf:photos"):
        with pytest.raises(ValueError, match=f"data.root={name} cannot be read .*the hub or the cache.*Couldn't reach"):
            folder(name, 16, 2)
    assert asked == [(("user/photos", "small"), {"split": "train"}), (("photos",), {"split": None})]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"data.root=hf:photos needs datasets: pip install 'vistok\[datasets\]'"):
        open_splits("hf:photos", "data.root")


def test_splits_of_other_names(tmp_path):
    datasets.DatasetDict({"full": rows(0, 3)}).save_to_disk(str(tmp_path / "one"))
    assert len(open_splits(str(tmp_path / "one"), "data.root").train) == 3
    datasets.DatasetDict({"a": rows(0, 1), "b": rows(1, 2)}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ValueError, match="two has the splits a, b: name one, such as data.root=.*two@a"):
        open_splits(str(tmp_path / "two"), "data.root")
    assert len(open_splits(f"{tmp_path}/two@b", "data.root").train) == 2
    datasets.DatasetDict({"test": rows(0, 3)}).save_to_disk(str(tmp_path / "test"))
    data = folder(str(tmp_path / "test"), 16, 2)
    assert data.num_test == 3 and len(data.train) == 0
    assert (
        kind_of(str(tmp_path / "one")) == "saved" and kind_of("hf:x") == "hub" and kind_of("hf://x/a.tar") == "shards"
    )


def test_missing_values_are_unreadable_images(tmp_path):
    split = rows(0, 1).add_item({"image": None, "label": None, "text": None})
    split.save_to_disk(str(tmp_path / "set"))
    images = open_listing(str(tmp_path / "set"), "--images", BOTH)
    assert images.open(0).read() == png(0) and images.label(0) == 0
    for read, message in ((images.open, "no image"), (images.label, "no label"), (images.caption, "no caption")):
        with pytest.raises(UnreadableImage, match=message):
            read(1)
    known = open_listing(str(tmp_path / "set"), "--images", Wanted("known", "known"))
    assert [known.label(i) for i in (0, 1)] == [0, None] and known.caption(1) is None
    with pytest.raises(ValueError, match=r"data.labels=true: .*plain \(train\) has no column of whole numbers"):
        rows(0, 2).remove_columns("label").save_to_disk(str(tmp_path / "plain"))
        open_listing(str(tmp_path / "plain"), "--images", BOTH)
