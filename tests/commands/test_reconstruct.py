"""``python -m vistok reconstruct``: an image file through a tokenizer, in tiles or at once."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok import __main__ as program
from vistok.images.ranges import to_uint8


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Upright pixels (97, 70, 3), and files of them: plain, turned by EXIF, and with a palette."""
    folder = tmp_path_factory.mktemp("photo")
    levels = np.kron(np.random.default_rng(0).integers(0, 4, (25, 18, 3)) * 80, np.ones((4, 4, 1)))[:97, :70]
    image = Image.fromarray(levels.astype(np.uint8))
    image.save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    image.quantize(256).save(folder / "palette.png")
    return folder


def reconstruct(run, photo, out, *words):
    program.main(["reconstruct", str(photo), "--tokenizer", str(run), "--out", str(out), *words])
    return torch.from_numpy(np.array(Image.open(out))).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["plain", "turned", "palette"])
def test_an_image_in_its_own_size(trained, photo, tmp_path, capsys, name):
    """The file is what Python makes of it, with and without tiles."""
    tokenizer, image = vistok.load(trained).eval(), vistok.read_image(photo / f"{name}.png")
    assert image.shape == (1, 3, 97, 70)
    assert torch.equal(to_uint8(image), to_uint8(vistok.read_image(photo / "plain.png")))
    whole = reconstruct(trained, photo / f"{name}.png", tmp_path / "whole.png")
    expected, codes = tokenizer.reconstruct(image)
    assert torch.equal(whole, to_uint8(expected)[0])
    said = " ".join(capsys.readouterr().out.split())
    error = (to_uint8(expected).double() - to_uint8(image).double()).square().mean()
    assert f"70x97 pixels, {codes.codes.numel():,} codes of 16; PSNR {10 * (255**2 / error).log10():.2f} dB" in said

    tiled = reconstruct(trained, photo / f"{name}.png", tmp_path / "tiled.png", "--tile", "64", "--overlap", "8")
    assert torch.equal(tiled, to_uint8(tokenizer.reconstruct(image, tile=64, overlap=8)[0])[0])
    assert torch.equal(to_uint8(tokenizer.detokenize(codes.codes)[..., :97, :70])[0], whole)
    found = re.search(
        r"tiles of 64 pixels differ by ([\d.]+) grey levels on average, and by (\d+) at most",
        " ".join(capsys.readouterr().out.split()),
    )
    assert 0 < float(found[1]) < float(found[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiled.png", "whole.png"]


def test_large_images_have_tiles_by_default(trained, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vistok.commands.reconstruct.LARGE", 97 * 70)
    reconstruct(trained, photo / "plain.png", tmp_path / "again.png")
    assert "tiles of" not in capsys.readouterr().out
    monkeypatch.setattr("vistok.commands.reconstruct.LARGE", 97 * 70 - 1)
    monkeypatch.setattr("vistok.commands.reconstruct.TILE", 64)
    reconstruct(trained, photo / "plain.png", tmp_path / "again.png")
    assert "tiles of 64 pixels" in " ".join(capsys.readouterr().out.split())
    reconstruct(trained, photo / "plain.png", tmp_path / "again.png", "--tile", "0")
    assert "tiles of" not in capsys.readouterr().out


@pytest.mark.parametrize("out, words, message", [
    ("again.xyz", [], "--out=.*again.xyz: unknown file extension: .xyz"),
    ("again.png", ["--tile", "1"], "--tile=1 must be at least"),
    ("again.png", ["--tile", "64", "--overlap", "40"], "--overlap=40 must be 0 or more, and less than half of --tile"),
    ("again.png", ["--overlap", "8"], "--overlap=8 needs --tile"),
    ("again.png", ["--max-pixels", "99"], "plain.png cannot be read: it has 6,790 pixels, more than --max-pixels=99"),
])  # fmt: skip
def test_what_does_not_fit_is_said(trained, photo, tmp_path, capsys, out, words, message):
    with pytest.raises(SystemExit):
        reconstruct(trained, photo / "plain.png", tmp_path / out, *words)
    said = capsys.readouterr().err
    assert re.search(message, said) and len(said.splitlines()) == 1, said
    assert list(tmp_path.iterdir()) == []
