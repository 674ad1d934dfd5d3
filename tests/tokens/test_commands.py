"""``python -m vistok tokens``: its messages, pictures and refusals."""

import shutil

import pytest
from PIL import Image

from vistok.__main__ import main
from vistok.formats.native import save


@pytest.fixture
def saved(make, tmp_path):
    save(make("vq"), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def tokens(saved, classes, tmp_path, capsys):
    out = tmp_path / "tokens"
    words = [str(saved), "--images", str(classes), "--out", str(out), "--image-size", "32", "--views", "flip"]
    words += ["--num-workers", "0"]
    main(["tokenize", *words])
    assert "7 images in 2 views, 1 shard, " in capsys.readouterr().out
    main(["tokenize", *words])  # once more: nothing is left to do
    assert capsys.readouterr().out.endswith(f"7 images in 2 views, 1 shard: {out}\n")
    return out


def test_check_verifies_and_draws(tokens, saved, tmp_path, capsys):
    picture = tmp_path / "pictures" / "sheet.png"
    main(["tokens", "check", str(tokens), "--tokenizer", str(saved), "--out", str(picture), "--num-images", "5"])
    assert "7 images in 2 views, 7 with a label; grid 8 x 8, 32 codewords" in capsys.readouterr().out
    with Image.open(picture) as image:
        assert image.width == 8 * (96 + 6) + 6 and image.height == 2 * (28 + 96 + 6)  # four images a row, both views


def test_check_refuses_another_tokenizer(stores, saved, tmp_path):
    with pytest.raises(SystemExit) as error:  # made by the same numbers, but saved: folded, so another sha256
        main(["tokens", "check", str(stores["fq"].folder), "--tokenizer", str(saved), "--out", "x.png"])
    assert error.value.code == 2


def test_check_sees_damage(tokens, capsys):
    path = tokens / "shard-000000.labels.npy"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(SystemExit):
        main(["tokens", "check", str(tokens)])
    assert "shard 0" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["llamagen", "jsonl", "webdataset"])
def test_export(tokens, tmp_path, form, capsys):
    main(["tokens", "export", str(tokens), "--to", form, "--out", str(tmp_path / form)])
    assert "7 images, written and read back" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tokens", "export", str(tokens), "--to", form, "--out", str(tmp_path / form)])
    assert "is not overwritten" in capsys.readouterr().err


def test_an_export_that_does_not_fit_leaves_nothing(stores, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["tokens", "export", str(stores["dq"].folder), "--to", "llamagen", "--out", str(tmp_path / "out")])
    assert "jsonl and webdataset" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())


def test_words_that_belong_together(tokens, tmp_path, capsys):
    shutil.rmtree(tmp_path / "tokenizer")
    for words, message in (
        (["--out", "x.png"], "--out, a picture, needs --tokenizer"),
        (["--sheet", "x.png"], "--sheet is now --out"),
        (["--num-images", "0"], "--num-images: must be at least 1, not 0"),
        (["--tokenizer", str(tmp_path / "none"), "--out", "x.png"], "none"),
    ):
        with pytest.raises(SystemExit):
            main(["tokens", "check", str(tokens), *words])
        assert message in capsys.readouterr().err
