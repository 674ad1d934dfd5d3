"""Masks and labels of images, from folders and from tars."""

import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data import folder, shards
from vistok.data.batches import Sample, collate
from vistok.data.random_masks import KINDS, box, mask_of
from vistok.training.module import LitTokenizer


@pytest.fixture
def classes(tmp_path) -> Path:
    for name in [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in ("cat", "ant") for i in range(4)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_depends_on_its_key_alone_and_hides_a_part(kind):
    image = torch.zeros(3, 64, 96)
    masks = [mask_of(kind, (0, 0, i), image) for i in range(40)]
    assert all(mask.shape == (1, 64, 96) and mask.dtype == torch.bool for mask in masks)
    assert torch.equal(masks[3], mask_of(kind, (0, 0, 3), image)) and not torch.equal(masks[3], masks[4])
    hidden = torch.stack([1 - mask.float().mean() for mask in masks])
    assert hidden.min() > 0.02 and hidden.max() < 0.8 and hidden.std() > 0.02


def test_a_box_by_hand():
    mask = box(np.random.default_rng(0), 8, 12)
    rows, columns = (~mask[0]).any(1).nonzero().flatten(), (~mask[0]).any(0).nonzero().flatten()
    assert int((~mask).sum()) == len(rows) * len(columns) and 2 <= len(rows) <= 4 and 3 <= len(columns) <= 6
    assert (rows.diff() == 1).all() and (columns.diff() == 1).all()


def test_masks_of_a_folder(classes):
    """New ones in each epoch of the training, the same in each validation, none in an evaluation."""
    plain, data = (folder(str(classes), 32, 4, mask=mask) for mask in (None, "irregular"))
    assert torch.equal(plain.train[1, 2].image, data.train[1, 2].image) and plain.train[1, 2].mask is None
    assert not torch.equal(data.train[0, 2].mask, data.train[1, 2].mask)
    assert torch.equal(data.val[0, 1].mask, data.val[0, 1].mask)
    (batch, *_) = data.val_dataloader()
    assert batch.mask.shape == (4, 1, 32, 32) and batch.mask.dtype == torch.bool and batch.labels is None
    assert next(data.scored_batches([])).mask is None
    with pytest.raises(ValueError, match="data.mask must be box, irregular or null, not 'hole'"):
        folder(str(classes), 32, 4, mask="hole")


def test_labels_of_a_folder_are_those_of_its_classes(classes):
    data = folder(str(classes), 32, 8, labels=True)
    (batch,) = data.val_dataloader()
    assert batch.labels.tolist() == [0 if "/ant/" in name else 1 for name in batch.names]
    inner = folder(str(classes / "train"), 32, 8, labels=True)
    assert inner.test[0, 0].label == 0 and inner.test[0, 7].label == 1
    Image.new("RGB", (40, 40)).save(classes / "train" / "a.png")
    with pytest.raises(ValueError, match=r"data.labels=true: train/a.png lies in no class folder of data.root="):
        folder(str(classes), 32, 8, labels=True)


def test_labels_and_masks_of_tars(tmp_path):
    def member(name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "PNG")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for i in range(4):
            member(f"{i}.png", file.getvalue())
            member(f"{i}.cls", b"%d" % (10 + i))
        member("4.png", file.getvalue())
    url = str(tmp_path / "s.tar")
    data = shards(url, url, 32, 5, labels=True, mask="box", max_unreadable=0.5)
    (batch,) = data.val_dataloader()
    assert batch.labels.tolist() == [10, 11, 12, 13] and batch.mask.shape == (4, 1, 32, 32)
    assert "4.png: it has no label KEY.cls beside it" in batch.skipped[0]
    samples = list(itertools.islice(data.train, 8))
    assert all(int(sample.name.partition(":")[2][0]) == sample.label - 10 for sample in samples)
    assert not torch.equal(samples[0].mask, samples[4].mask)


def test_a_batch_without_them():
    batch = collate([Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), "a")])
    assert batch.labels is None and batch.mask is None


def test_losses_get_the_masks_of_the_data(classes, train, tmp_path, monkeypatch):
    """``train.py data.mask=box`` hands a hole of each image to the comparison of training and of validation."""
    seen, compare = [], LitTokenizer.compare

    def spy(self, output, reconstruction, images, mask=None):
        seen.append((self.training, mask))
        return compare(self, output, reconstruction, images, mask)

    monkeypatch.setattr(LitTokenizer, "compare", spy)
    words = ["data=folder", f"data.root={classes}", "data.num_workers=0", "data.mask=box", "data.batch_size=4"]
    train(tmp_path / "run", *words, "loss=l1")
    assert {training for training, _ in seen} == {True, False}
    assert all(mask.shape[1:] == (1, 32, 32) and not mask.flatten(1).all(1).any() for _, mask in seen)
