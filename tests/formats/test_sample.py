"""The tokenizer in the package, images in and out of files, and weights stored as float16."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.data import astronaut, coffee

import vistok
from vistok.commands import export
from vistok.formats import native, tokenizer_paths


def test_the_sample_reconstructs_photos_it_has_not_seen():
    tokenizer = vistok.load("sample")
    images = torch.cat([vistok.read_image(photo(), size=192) for photo in (coffee, astronaut)])
    codes = tokenizer.tokenize(images)
    assert codes.shape == (2, 1, 24, 24) and len(codes.unique()) > 500
    error = (tokenizer.detokenize(codes) - images).square().mean((1, 2, 3)) / 4
    assert (-10 * error.log10()).min() > 19.5


def test_the_sample_is_small_and_says_where_it_is_from():
    files = {path.name: path.stat().st_size for path in tokenizer_paths.SAMPLE.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "README.md"} and files["model.safetensors"] < 2**20
    card = (tokenizer_paths.SAMPLE / "README.md").read_text()
    for credit in ("CID22", "CC BY-SA 4.0", "CLIC 2025", "Unsplash"):
        assert credit in card


def test_a_folder_named_sample_goes_before(make_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.save(make_tokenizer(), tmp_path / "sample")
    assert vistok.load("sample").factor == 4


def test_half(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven())
    native.save(tokenizer, tmp_path / "whole")
    export.main([str(tmp_path / "whole"), "--to", "folder", "--half", "--out", str(tmp_path / "half")])
    stored, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "whole"))
    assert all(torch.equal(stored[name], whole[name].half()) for name in whole)
    loaded = vistok.load(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert (loaded.encode(images) - tokenizer.encode(images)).abs().max() < 0.02


def test_half_refuses(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven())
    native.save(tokenizer, tmp_path / "run")
    with pytest.raises(SystemExit, match="--half is for --to folder, not diffusers"):
        export.main([str(tmp_path / "run"), "--to", "diffusers", "--half", "--out", str(tmp_path / "out")])
    tokenizer.quantizer.codewords.data[0, 0] = 1e6
    with pytest.raises(ValueError, match="quantizer.table has values up to 1e\\+06, beyond float16"):
        native.save(tokenizer, tmp_path / "out", half=True)


def test_images_from_and_to_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    read = vistok.read_image(tmp_path / "photo.png", size=32)
    assert torch.equal(read, vistok.read_image(pixels, size=32)) and read.shape == (1, 3, 32, 32)
    vistok.write_image(torch.cat([read, -read]), tmp_path / "two.png")
    written = np.array(Image.open(tmp_path / "two.png"))
    assert np.array_equal(written[:, :32], pixels[:, 8:40]) and np.array_equal(written[:, 32:], 255 - pixels[:, 8:40])


@pytest.mark.parametrize("source, size, message", [
    (np.zeros((8, 8, 3)), 8, "must be uint8, not float64"),
    (np.zeros((8, 8), np.uint8), 0, "size must be at least 1, not 0"),
])  # fmt: skip
def test_what_is_no_image_is_refused(source, size, message):
    with pytest.raises(ValueError, match=message):
        vistok.read_image(source, size)


def test_only_images_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), not \(b, c, H, W\)"):
        vistok.write_image(torch.zeros(3, 8, 8), tmp_path / "x.png")
