"""Images to files and back, through the class and the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vistok.__main__ import main
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.codec import Codec
from vistok.codec.codec_folder import load
from vistok.codec.coder import decompress_file
from vistok.formats import native
from vistok.quantizers import DynamicQuantizer, EntropyRouter, VectorQuantizer
from vistok.tokenizer import Tokenizer


@pytest.mark.parametrize("coding", ["fixed", "static", "context", "best"])
@pytest.mark.parametrize("rate", [0, 1])
def test_a_file_holds_the_codes(codec, picture, coding, rate):
    data = codec.compress(picture, rate, coding)
    header, codes, known = codec.read(data)
    assert (header.width, header.height, header.rate) == (45, 30, rate) and known.all()
    assert np.array_equal(codes, codec.encode(picture, rate).numpy()) and codes.shape[1:] == (8, 12)
    if coding == "fixed":  # of header and checksums, then 5 or 3 bits a code
        assert len(data) == 23 + len(codes) * (8 * 12 * (5, 3)[rate] // 8)
    image = codec.decompress(data)
    latent = codec.rates[rate].head.lookup(torch.from_numpy(codes)[None])
    assert torch.equal(codec.latent(codes, known, rate), latent[0])
    expected = ((codec.tokenizer.decode(latent).clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)[0, :, :30, :45]
    assert (image.int() - expected.int()).abs().max() <= 1  # convolutions of other strides may round otherwise
    assert codec.compress(picture, rate, coding) == data


def test_multiples_of_the_factor_are_not_padded(codec, picture):
    whole = picture[:, :28, :44]
    codes = codec.rates[0].head(codec.tokenizer.encode(whole[None] / 127.5 - 1)).codes
    assert torch.equal(codec.encode(whole), codes[0])
    assert codec.decompress(codec.compress(picture[:, :1, :5])).shape == (3, 1, 5)


def test_lost_packets_are_concealed_or_refused(codec, picture):
    data = codec.compress(picture, num_packets=8)
    cut = data[:-2]
    with pytest.raises(ValueError, match="12% of its codes are lost; --conceal predicts them"):
        codec.decompress(cut)
    header, codes, known = codec.read(cut)
    whole = codec.read(data)[1]
    assert known.sum() == 84 and np.array_equal(codes[:, known], whole[:, known])
    latent = codec.latent(codes, known, 0)
    received = torch.from_numpy(known)
    exact = codec.rates[0].head.lookup(torch.from_numpy(whole)[None])[0]
    assert torch.equal(latent[:, received], exact[:, received])
    y, x = np.argwhere(~known)[4]  # by hand: the mean of the neighbours
    around = exact[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum((1, 2)) - exact[:, y, x]
    number = received[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum()
    torch.testing.assert_close(latent[:, y, x], around / number)
    assert codec.decompress(cut, conceal=True).shape == picture.shape


def test_bad_arguments(codec, picture):
    for arguments, message in [
        ({"rate": 2}, "rate 2 must be from 0 to 1"),
        ({"coding": "zip"}, "one of fixed, static, context here, not 'zip'"),
        ({"coding": "context", "num_packets": 2}, "one of fixed, static here"),
        ({"num_packets": 97}, "packets=97 must be from 1 to 96"),
        ({"max_pixels": 1349}, "45x30 pixels, more than max_pixels=1349"),
    ]:
        with pytest.raises(ValueError, match=message):
            codec.compress(picture, **arguments)


def test_another_codec_refuses_the_file(codec, picture):
    data = codec.compress(picture)
    other = Codec(codec.tokenizer, codec.rates[:1])
    with pytest.raises(ValueError, match=f"with the codec {codec.id[:4].hex()}, this one is"):
        other.decompress(data)


def test_dynamic_heads_are_refused(codec):
    size = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": 4}
    head = DynamicQuantizer(VectorQuantizer(8, 4), EntropyRouter([1.0], patch=4))
    tokenizer = Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size))
    with pytest.raises(ValueError, match="a DynamicQuantizer cannot be reduced or stored in files"):
        Codec(tokenizer, codec.rates)


def test_saved_and_loaded(codec, picture, tmp_path):
    codec.save(tmp_path)
    again = load(tmp_path)
    assert again.id == codec.id and again.compress(picture, 1) == codec.compress(picture, 1)
    (tmp_path / "codec.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="is not a codec that can be read"):
        load(tmp_path)


@pytest.mark.parametrize("change, message", [
    ({"format": []}, r"format \[\]; this version reads 1"),
    ({"rates": 2}, "rates=2, not from 1 to 256"),
    ({"rates": []}, r"rates=\[\], not from 1 to 256"),
    ({"rates": [[20]] * 300}, "not from 1 to 256"),
    ({"rates": [[20], [5], [3]]}, "has no tensor 2.0.table"),
    ({"rates": [["20"], [5]]}, "do not belong together"),
    ({"id": 3}, "do not belong together"),
    ({"id": None}, "do not belong together"),
])  # fmt: skip
def test_a_description_that_is_wrong(codec, tmp_path, change, message):
    codec.save(tmp_path)
    config = json.loads((tmp_path / "codec.json").read_text()) | change
    (tmp_path / "codec.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 10**5, b"[]", b"\xff", b"", b"{", b"9" * 5_000])
def test_a_description_that_is_none(codec, tmp_path, content):
    codec.save(tmp_path)
    (tmp_path / "codec.json").write_bytes(content)
    with pytest.raises(ValueError, match="codec.json (is not JSON|holds a)"):
        load(tmp_path)


@pytest.mark.parametrize("name, change, message", [
    ("table", lambda t: t[:, :2], "have the shapes"),
    ("table", lambda t: t[:1], "have the shapes"),
    ("table", lambda t: t[:0], "have the shapes"),
    ("table", lambda t: torch.tensor(1.0), "have the shapes"),
    ("table", lambda t: t.half(), "tensors of rate 0 are torch.float16"),
    ("table", lambda t: t.to(torch.complex64), "tensors of rate 0 are torch.complex64"),
    ("frequencies", lambda t: t * 0, "out of their range"),
    ("frequencies", lambda t: t * 0 + 2**24, "out of their range"),
    ("frequencies", lambda t: t.float(), "torch.float32"),
    ("frequencies", lambda t: t.bool(), "torch.bool"),
    ("rows", lambda t: t * 0 + 2**24, "out of their range"),
    ("rows", lambda t: t[0], "have the shapes"),
    ("classes", lambda t: t * 0 + 200, "out of their range"),
    ("classes", lambda t: None, "has no tensor 0.0.classes"),
])  # fmt: skip
def test_tables_that_are_wrong(codec, tmp_path, name, change, message):
    codec.save(tmp_path)
    tensors = load_file(tmp_path / "codec.safetensors")
    tensors[f"0.0.{name}"] = change(tensors[f"0.0.{name}"])
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}
    save_file(tensors, tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match=f"is not a codec that can be read: .*{message}"):
        load(tmp_path)


def test_a_damaged_file_is_named(codec, picture, tmp_path):
    (tmp_path / "image.vtk").write_bytes(codec.compress(picture)[:-1])
    with pytest.raises(ValueError, match=f"{tmp_path}/image.vtk: it is damaged or truncated"):
        decompress_file(codec, tmp_path / "image.vtk")


def test_command_line(trained, photos, tmp_path, capsys):
    """From a run to a file and back, by all verbs of ``codec``."""
    main(["codec", "reduce", str(trained), "--sizes", "8", "4", "--images", str(photos), "--image-size", "32", "--out",
          str(tmp_path / "reduced")])  # fmt: skip
    codec = str(tmp_path / "codec")
    reduced = [str(tmp_path / "reduced" / size) for size in ("4", "8")]
    main(["codec", "build", str(trained), *reduced, "--images", str(photos), "--image-size", "32", "--out", codec])
    assert "rate 2: 4 codewords" in capsys.readouterr().out
    words = [
        "codec",
        "train-concealment",
        codec,
        "--images",
        str(photos),
        "--image-size",
        "32",
        "--window",
        "4",
        "--updates",
        "3",
    ]
    main([*words, "--channels", "8", "--num-blocks", "1"])
    with pytest.raises(SystemExit):
        main(words)
    assert "--replace trains another" in capsys.readouterr().err
    image, file, out = photos / "01.png", str(tmp_path / "file.vtk"), tmp_path / "out.png"
    main(["codec", "compress", str(image), "--codec", codec, "--codebook", "1", "--num-packets", "4", "--out", file])
    size = (tmp_path / "file.vtk").stat().st_size
    assert f"file.vtk: {size:,} bytes, {8 * size / (40 * 56):.4f} bits per pixel of 56x40, 8 codewords" in (
        " ".join(capsys.readouterr().out.split())
    )
    main(["codec", "decompress", file, "--codec", codec, "--out", str(out)])
    with Image.open(out) as opened:
        assert opened.size == (56, 40)
        whole = np.asarray(opened)
    (tmp_path / "file.vtk").write_bytes((tmp_path / "file.vtk").read_bytes()[:-1])
    with pytest.raises(SystemExit):
        main(["codec", "decompress", file, "--codec", codec, "--out", str(out)])
    assert "damaged or truncated: 20% of its codes are lost" in capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open(out)), whole)
    main(["codec", "decompress", file, "--codec", codec, "--conceal", "--out", str(out)])
    assert not np.array_equal(np.asarray(Image.open(out)), whole)
    with pytest.raises(SystemExit):
        main(["codec", "decompress", file, "--codec", codec, "--out", "out.xyz"])


def test_other_networks_are_refused(trained, photos, tmp_path, make_tokenizer, capsys):
    native.save(make_tokenizer(), tmp_path / "other")
    with pytest.raises(SystemExit):
        main(
            [
                "codec",
                "build",
                str(trained),
                str(tmp_path / "other"),
                "--images",
                str(photos),
                "--out",
                str(tmp_path / "c"),
            ]
        )
    assert "has other networks than the first tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
