"""The images that an evaluation scores where the tokenizer's run tells them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vistok
from vistok.data import split_record
from vistok.evaluation.evaluate import evaluate
from vistok.formats import native
from vistok.images.decoding import read_rgb
from vistok.images.pixel_hash import pixel_hash
from vistok.training.callbacks.held_out import HeldOutHashes

DATA = ("data=folder", "data.num_workers=0", "loss=l1", "data.batch_size=4", "data.val_count=3")
EVAL = ("feature_network=none", "metrics.lpips=null", "data.num_workers=0", "metrics.intervals=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("split") / "images", np.random.default_rng(0)
    for name in [f"{c}/{i}.png" for c in "ab" for i in range(6)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def run(images, train) -> Path:
    return train(images.parent / "run", *DATA, f"data.root={images}")


def scored(compose, tmp_path, *overrides) -> dict:
    return evaluate(compose("eval", *EVAL, *overrides, f"run.out={tmp_path / 'out.json'}"))


def test_a_run_records_what_it_held_out(images, run):
    record = split_record.read(run)
    assert record.root == str(images.resolve()) and len(record.hashes) == 3 and len(record.trained) == 9
    assert record.hashes == {name: pixel_hash(read_rgb(images / name)) for name in record.hashes}
    every = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    assert record.trained_on(images, every) == 9 and record.trained_on(images, list(record.hashes)) == 0
    assert record.trained_on(images / "a", [name[2:] for name in every if name.startswith("a/")]) == sum(
        name.startswith("a/") and name not in record.hashes for name in every
    )
    assert record.trained_on(images.parent, every) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_held_out_images_are_hashed_once(images, train, tmp_path, monkeypatch, workers):
    """By the processes that read them; later validations give no hashes."""
    seen, end = [], HeldOutHashes.on_validation_batch_end
    monkeypatch.setattr(
        HeldOutHashes, "on_validation_batch_end", lambda *given: (seen.append(given[4].hashes), end(*given))
    )
    words = [*DATA, f"data.root={images}", f"data.num_workers={workers}", "data.batch_size=2", "log.val_every=2"]
    run = train(tmp_path / "run", *words, "optim.updates=6")
    assert list(map(len, seen)) == [2, 1, 0, 0, 0, 0]
    assert split_record.read(run).hashes == {
        name: pixel_hash(read_rgb(images / name)) for name in split_record.read(run).hashes
    }


def test_a_folder_that_changed_is_not_resumed(images, train, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    words = [
        *DATA[:-1],
        "data.val_count=3",
        f"run.dir={tmp_path / 'run'}",
        "run.resume=auto",
        "schedule.decay=constant",
    ]
    run = train(tmp_path / "run", *words, f"data.root={folder}")
    held_out = next(iter(split_record.read(run).hashes))
    folder = folder.rename(tmp_path / "moved")
    train(run, *words, f"data.root={folder}", "optim.updates=3")
    shutil.copy(folder / "a" / "0.png", folder / "b" / "new.png")
    shutil.copy(folder / "a" / "0.png", folder / "b" / "new2.png")
    with pytest.raises(
        ValueError, match=r"moved has 2 images more, such as b/new.png, than when the run in .*run began"
    ):
        train(run, *words, f"data.root={folder}", "optim.updates=4")
    (folder / held_out).unlink()
    (folder / "b" / "new2.png").unlink()  # as many as before
    with pytest.raises(ValueError, match=r"has 1 image more, such as b/new.png, and 1 image fewer than when"):
        train(run, *words, f"data.root={folder}", "optim.updates=4")


@pytest.mark.parametrize("inner", ["", "tokenizer"])
def test_a_run_alone_is_scored_on_its_held_out_images_at_its_size(run, compose, tmp_path, capsys, inner):
    report = scored(compose, tmp_path, f"tokenizer={run / inner}")
    assert report["data"]["images"] == 3 and report["data"]["image_size"] == 32
    assert "scores the 3 of 12 images that the run held out; run.held_out=false scores all" in capsys.readouterr().out


def test_its_folder_by_name_and_all_of_it(images, run, compose, tmp_path, capsys):
    assert scored(compose, tmp_path, f"tokenizer={run}", f"data.root={images}")["data"]["images"] == 3
    (tmp_path / "out.json").unlink()
    asked = (f"tokenizer={run}", f"data.root={images}", "run.held_out=false")
    assert scored(compose, tmp_path, *asked)["data"]["images"] == 12
    assert "warning: 9 of 12 images were trained on by the tokenizer's run" in capsys.readouterr().out


def test_other_data_says_how_much_was_trained_on(images, run, compose, tmp_path, capsys):
    report = scored(compose, tmp_path, f"tokenizer={run}", f"data.root={images / 'a'}")
    held_out = sum(name.startswith("a/") for name in split_record.read(run).hashes)
    assert report["data"]["images"] == 6
    assert f"warning: {6 - held_out} of 6 images were trained on" in capsys.readouterr().out


def test_a_tokenizer_without_a_run_needs_data(tmp_path, run, compose):
    native.save(vistok.load(run), tmp_path / "export")
    with pytest.raises(ValueError, match=r"missing on the command line: data.root="):
        scored(compose, tmp_path, f"tokenizer={tmp_path / 'export'}")


def test_a_config_of_a_stranger_chooses_no_class(tmp_path, run, compose):
    """Of a run's config only plain values are read, and only for a folder of images."""
    stranger = tmp_path / "stranger"
    native.save(vistok.load(run), stranger / "tokenizer")
    (stranger / "held_out.json").write_text(json.dumps({"root": "/", "held_out": {}}))
    bomb = "a: &a [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 or ''}, *a{i - 1 or ''}]\n" for i in range(1, 60))
    for text in (
        "data: {_target_: os.system, root: touch PWN, image_size: 64}",
        "data: {_target_: vistok.data.folder, root: '${oc.env:HOME}'}",
        "data: !!python/object/apply:os.system [touch PWN]",
        bomb + "data: *a59",
        "data: [",
    ):
        (stranger / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"missing on the command line: data.root="):
            scored(compose, tmp_path, f"tokenizer={stranger}")


def test_a_run_on_a_table_is_scored_on_its_validation_images(images, train, compose, tmp_path, capsys):
    rows = [f"{c}/{i}.png,{c},{'val' if i == 5 else 'train'}" for c in "ab" for i in range(6)]
    table = images.parent / "images" / "list.csv"
    table.write_text("\n".join(["photo,label,split", *rows]))
    words = [*DATA[:-1], f"data.root={table}", "data.columns={image: photo}", "data.labels=true"]
    run = train(tmp_path / "run", *words)
    report = scored(compose, tmp_path, f"tokenizer={run}")
    assert report["data"]["images"] == 2 and capsys.readouterr().out.count("were trained on") == 0
    (tmp_path / "out.json").unlink()
    train_split = [f"tokenizer={run}", f"data.root={table}@train", "data.columns={image: photo}"]
    with pytest.raises(ValueError, match="none of the images that the run held out; run.held_out=false scores all"):
        scored(compose, tmp_path, *train_split)
    scored(compose, tmp_path, *train_split, "run.held_out=false")
    assert "10 of 10 images were trained on" in capsys.readouterr().out
    table.unlink()


def test_a_run_on_crops_of_full_resolution_is_scored_on_such(images, train, compose, tmp_path, capsys):
    """``data.resize=0``: the centre of the images, with the PSNR that the run had, unless resizing is asked for."""
    run = train(tmp_path / "run", *DATA, f"data.root={images}", "data.resize=0", "data.crop=random")
    wanted = json.loads((run / "metrics.json").read_text())["metrics"]["psnr"]
    report = scored(compose, tmp_path, f"tokenizer={run}")
    assert report["scores"][0]["metrics"]["psnr"] == pytest.approx(wanted, abs=0.05)  # to 8 bits
    assert "scores the centre of each image without resizing" in capsys.readouterr().out
    (tmp_path / "out.json").unlink()
    resized = scored(compose, tmp_path, f"tokenizer={run}", f"data.root={images}")
    assert resized["scores"][0]["metrics"]["psnr"] != report["scores"][0]["metrics"]["psnr"]
